"""The flags of one run."""

from __future__ import annotations

from tem_studies.flag_row import FlagRow
from tem_studies.workloads.communication_flags import COMMUNICATION_FLAGS
from tem_studies.workloads.environment import AS_USUAL
from tem_studies.workloads.network_flags import NETWORK_FLAGS

# Names, meanings and defaults of the DPS study's flags are its authors' (arXiv
# 2003.11316); the others are ours. Groups and flags in the order of --help.
RUN_FLAGS: dict[str, tuple[FlagRow, ...]] = {
    "Data and network": NETWORK_FLAGS,
    "Training": (
        FlagRow(
            "batch_size",
            int,
            100,
            "Examples per step over all workers; divisible by their number. Of words: "
            "streams that are read side by side; of characters: windows, 12 for each "
            "worker if not given; of ratings: pairs, drawn ones among them. Several "
            "values make a study.",
            takes_several=True,
        ),
        FlagRow("bptt", int, 30, "Of lstm: words of each stream in one step."),
        FlagRow("train_iterations", int, 10_000, "Steps of training."),
        FlagRow("optimizer", str, "sgd", "sgd, momentum, nesterov, adam or adamw."),
        FlagRow("learning_rate", float, 0.1, "Learning rate of the first step."),
        FlagRow(
            "decay_type",
            str,
            "constant",
            "Learning rate over time: constant, linear or cosine (along half a cosine) "
            "down to end_learning_rate_factor times its start over decay_steps steps, "
            "or step, a tenth from each of decay_epochs on.",
        ),
        FlagRow(
            "decay_epochs",
            int,
            None,
            "Of decay_type step: epochs, in rising order.",
            takes_several=True,
        ),
        FlagRow(
            "learning_rate_warmup_epochs",
            int,
            0,
            "Epochs in which the rate rises to learning_rate_warmup_factor times it.",
        ),
        FlagRow(
            "learning_rate_warmup_factor",
            float,
            1.0,
            "Learning rate after its warm-up, as a multiple of the first.",
        ),
        FlagRow(
            "learning_rate_warmup_steps",
            int,
            None,
            "Of decay_type cosine: first of its decay_steps, in which the rate rises "
            "to learning_rate. Not given: none.",
        ),
        FlagRow(
            "decay_steps",
            int,
            1000,
            "Steps of the linear or cosine decay; the rate is flat after them.",
        ),
        FlagRow(
            "end_learning_rate_factor",
            float,
            0.01,
            "Last learning rate of the linear or cosine decay, as a share of "
            "learning_rate, in [0, 1].",
        ),
        FlagRow(
            "momentum", float, 0.9, "Momentum, in [0, 1), of momentum and nesterov."
        ),
        FlagRow(
            "weight_decay",
            float,
            0.0,
            "Share of the weights that is added to their summed gradient, not of batch "
            "norm's; 0 with adam. Of adamw: share that they lose at each step, times "
            "the rate, of matrices alone.",
        ),
        FlagRow("beta_1", float, 0.9, "Of adam and adamw, in [0, 1)."),
        FlagRow("beta_2", float, 0.999, "Of adam and adamw, in [0, 1)."),
        FlagRow("epsilon", float, 1e-7, "Of adam and adamw, above 0."),
        FlagRow(
            "running_mean_epochs",
            int,
            0,
            "Epochs over which the weights are averaged, then anew; the mean is "
            "evaluated beside the last weights. 0: no mean.",
        ),
        FlagRow(
            "accumulate_steps",
            int,
            None,
            "Of so many steps each worker adds up its gradients before they are "
            "exchanged and the weights updated; at most an epoch. Not given: 1.",
        ),
        FlagRow(
            "dtype_policy",
            str,
            None,
            "Of images: Keras's policy, float32, mixed_bfloat16 or mixed_float16. Not "
            "given: float32.",
        ),
        FlagRow(
            "loss_scale",
            str,
            None,
            "What losses are multiplied by against underflow of float16: dynamic, or a "
            "number above 0. A step that overflows is skipped. Not given: dynamic "
            "under mixed_float16, else none.",
        ),
        FlagRow(
            "nonfinite",
            str,
            None,
            "What a NaN in a worker's gradient does: raise ends the run; zero counts "
            "that worker's gradient as zero; skip leaves the step out. Not given: "
            "raise.",
        ),
        FlagRow(
            "jit_compile",
            bool,
            None,
            "Of images and gpt: whether XLA compiles the step of a single worker. Not "
            "given: no.",
        ),
        FlagRow(
            "compile_model",
            bool,
            None,
            "Of images and gpt: whether XLA compiles the network, forward and "
            "backward, and not the exchange: of any number of workers. Not given: no.",
        ),
        FlagRow(
            "seed", int, 0, "Of initial weights and the order of examples; at least 0."
        ),
    ),
    "Checks and results": (
        FlagRow(
            "check_interval", int, 100, "Steps between two validations that are logged."
        ),
        FlagRow(
            "save_interval", int, 1000, "Steps between two checkpoints of the weights."
        ),
        FlagRow(
            "goal_error",
            float,
            0.01,
            "Error on the validation split, in [0, 1], that ends the run once "
            "reached. Has an effect only if it is given.",
        ),
        FlagRow(
            "check_interval_arrival",
            int,
            100,
            "Steps between two tests of --goal_error.",
        ),
        FlagRow(
            "evaluation_examples",
            int,
            None,
            "Most examples that an evaluation takes of its split, validation or test: "
            "the first ones; of text words or characters, of ratings users. Not given: "
            "all.",
        ),
        FlagRow(
            "logdir",
            str,
            None,
            "Directory for result.json, checkpoints and TensorBoard. Without it: runs/ "
            "and the time of day. A study's is --study_dir.",
        ),
        FlagRow(
            "overwrite",
            bool,
            False,
            "Whether to replace what another run left in LOGDIR. Without it such a "
            "directory is refused.",
            is_setting=False,
        ),
        FlagRow(
            "resume",
            str,
            "no",
            "auto: save the run as a whole in LOGDIR/resume, and go on, bit for bit, "
            "where one that was killed has left it; all workers must see LOGDIR. "
            "SIGTERM and SIGUSR1 then stop all of them after the same step, with exit "
            "code 75. no: begin anew.",
            is_setting=False,
        ),
        FlagRow(
            "resume_interval",
            int,
            100,
            "Of resume auto: steps between two checkpoints of the whole run.",
            is_setting=False,
        ),
    ),
    "Communication": COMMUNICATION_FLAGS,
    "Workers": (
        FlagRow(
            "workers",
            int,
            1,
            "Virtual workers in this process. For real processes see launch/local.py.",
        ),
        FlagRow(
            "threads",
            int,
            0,
            "Processor threads of this process; 0: TensorFlow's choice, all cores.",
        ),
        FlagRow(
            "start_seconds",
            float,
            AS_USUAL.start_seconds,
            "Of real processes: how long each waits for the others at the start.",
            is_setting=False,
        ),
        FlagRow(
            "refuse_public",
            bool,
            False,
            "Of real processes: whether addresses that the whole internet can reach "
            "are an error. TensorFlow's server asks nobody who they are.",
            is_setting=False,
        ),
    ),
}

# Those about starting a run's real processes.
OF_SEVERAL_PROCESSES = ("start_seconds", "refuse_public")

# Those about checkpoints, which runs of a study do not keep.
OF_CHECKPOINTS = ("save_interval",)

# Those about what is in LOGDIR already.
OF_LOGDIR = ("logdir", "overwrite", "resume", "resume_interval")
