"""Where a run's replicas live: this process, virtual devices in it, or many processes.

Virtual devices (`workers` > 1) are for studies of quality: every replica computes on
this machine and nothing travels. Where the environment names a cluster (TF_CONFIG, or
what a scheduler wrote), each process is one worker of it.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

import tem_tf
from tem_studies.refusal import Refusal, refusing
from tem_studies.workloads.chunks import use_one_thread_per_operation
from tem_studies.workloads.configuration import Configuration, check_divisible
from tem_studies.workloads.environment import AS_USUAL, Start, check_workers
from tem_tf import is_chief, require_same_on_all_workers
from tem_tf.cluster import find_task

_LONGEST_REFUSAL = 1000  # Bytes that travel; refusals are a sentence or two.

# Networks whose batches are computed in chunks side by side (chunks.py).
_CUT_NETWORKS = ("simple-cnn", "resnet-8")


def make_strategy(
    configuration: Configuration, start: Start = AS_USUAL
) -> tf.distribute.Strategy:
    """Makes the strategy that a configuration and the environment ask for.

    Call it before any other use of TensorFlow: devices and threads can only be set
    before it starts. Under several processes it returns when all have joined, and when
    all have the same settings.

    Args:
        configuration: Of what is trained.
        start: How workers start, where there are several.

    Raises:
        Refusal: `workers` within a cluster; a batch that the replicas cannot
            share; workers with different settings; a worker is missing.
    """
    check_workers(configuration)
    if configuration.arch in _CUT_NETWORKS:
        use_one_thread_per_operation(configuration.threads)
    elif configuration.threads:
        tf.config.threading.set_intra_op_parallelism_threads(configuration.threads)
    if find_task() is not None:
        # Addresses, ports and workers are the user's; a TimeoutError is an OSError.
        with refusing(ValueError, OSError):
            strategy = tem_tf.MultiWorkerMirroredStrategy(**start._asdict())
    elif configuration.workers > 1:
        strategy = _virtual_devices(configuration.workers)
    else:
        strategy = tf.distribute.get_strategy()
    with refusing(ValueError):
        require_same_on_all_workers(strategy, configuration.shared())
    check_divisible(configuration.batch_size, strategy.num_replicas_in_sync)
    return strategy


def spans_processes(strategy: tf.distribute.Strategy) -> bool:
    """Whether the replicas live in more than one process."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    return strategy.num_replicas_in_sync > len(strategy.extended.worker_devices)


def from_chief(
    strategy: tf.distribute.Strategy, arrays: list[np.ndarray]
) -> list[np.ndarray]:
    """Gives all workers the chief's arrays, bit for bit. Collective.

    Args:
        strategy: Any strategy; one that lives in one process returns `arrays`.
        arrays: float32, of the same shapes on all workers. Only the chief's values
            count.
    """
    if not spans_processes(strategy):
        return arrays
    mine = tf.constant(np.concatenate([array.ravel() for array in arrays]), tf.float32)

    @tf.function
    def add_up() -> tf.Tensor:
        def replica() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            is_first = tf.equal(context.replica_id_in_sync_group, 0)
            share = tf.where(is_first, mine, tf.zeros_like(mine))  # x + 0 is x
            return context.all_reduce(tf.distribute.ReduceOp.SUM, share)

        return strategy.run(replica)

    flat = strategy.experimental_local_results(add_up())[0].numpy()
    parts = np.split(flat, np.cumsum([array.size for array in arrays])[:-1])
    return [part.reshape(a.shape) for part, a in zip(parts, arrays, strict=True)]


def refuse_on_all_workers(
    strategy: tf.distribute.Strategy, refusal: str | None
) -> None:
    """Raises on all workers if the chief has a reason not to start. Collective.

    A chief that ended alone would let the others wait for it.

    Args:
        strategy: Any strategy; call it right after it is made.
        refusal: The reason. Only the chief's counts.

    Raises:
        Refusal: there is one; it says on all of them what the chief's is.
    """
    text = (refusal or "").encode()[:_LONGEST_REFUSAL]
    letters = np.frombuffer(text.ljust(_LONGEST_REFUSAL), np.uint8)
    (theirs,) = from_chief(strategy, [letters.astype(np.float32)])
    words = bytes(theirs.astype(np.uint8)).decode(errors="ignore").strip()
    if words:
        chief = "" if is_chief(strategy) else "The chief refuses to start: "
        raise Refusal(chief + words)


def _virtual_devices(workers: int) -> tf.distribute.Strategy:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * workers
    )
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(workers)])
