"""Lines as TensorFlow prints them in trainings of two and three workers."""

ABSL = "I0000 00:00:1795784650.325266   15230 port.cc:153] oneDNN operations are on."
REMOTE = (
    "Additional GRPC error information from remote target /job:worker/replica:0/task:0 "
    "while calling /tensorflow.WorkerService/RecvBuf:"
)
EAGERLY = (
    "WARNING:tensorflow:Using MultiWorkerMirroredStrategy eagerly has significant "
    "overhead currently. We will be working on improving this in the future, but"
)
TENSORFLOWS = [
    "WARNING: All log messages before absl::InitializeLog() is called are written to "
    "STDERR",
    ABSL,
    "I0000 00:00:1795784998.727296    4661 cpu_feature_guard.cc:227] This TensorFlow "
    "binary is optimized to use available CPU instructions in performance-critical",
    "To enable the following instructions: AVX2 FMA, in other operations, rebuild "
    "TensorFlow with the appropriate compiler flags.",
    "E0000 00:00:1795785002.993381    4661 cuda_platform.cc:52] failed call to cuInit",
    "I0000 00:00:1795785003.034308    4768 coordination_service.cc:505] Example "
    "stragglers:",
    "/job:worker/replica:0/task:1",
    "W0000 00:00:1795785003.614775    4661 dataset.cc:997] Input of GeneratorDatasetOp",
    "I1127 13:03:20.123456   15230 coordination_service.h:529] has connected",
    "2026-11-27 13:03:20.123456: I tensorflow/core/util/port.cc:153] oneDNN is on.",
    "2026-11-27 13:03:20.123456: W external/local_xla/xla/tsl/cuda/cuda.cc:12] none",
    EAGERLY,
    "E0000 00:00:1795785030.945141    5674 base_collective_executor.cc:252] "
    "BaseCollectiveExecutor::StartAbort UNAVAILABLE: The following tasks are unhealthy "
    "(stopped sending heartbeats):",
    "/job:worker/replica:0/task:1",
    "The tasks have crashed. Check the task logs for an earlier error, or scheduler",
    REMOTE,
    ':UNKNOWN:Error received from peer  {grpc_status:14, grpc_message:"Socket closed"}',
    "The error could be from a previous operation. Restart your program to reset.",
    "\t [[{{node CollectiveReduceV2}}]] [type.googleapis.com/tensorflow.DerivedStatus]",
]
