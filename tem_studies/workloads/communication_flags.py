"""The flags of what the workers of one run send one another."""

from __future__ import annotations

from tem_studies.flag_row import FlagRow

COMMUNICATION_FLAGS: tuple[FlagRow, ...] = (
    FlagRow(
        "local_steps",
        int,
        None,
        "Steps that each worker takes by itself, on weights of its own, before all "
        "exchange what has moved. Not given: gradients are exchanged at each step.",
    ),
    FlagRow(
        "outer_learning_rate",
        float,
        None,
        "Of local_steps: share of the mean movement that is taken over. Not given: "
        "0.9.",
    ),
    FlagRow(
        "outer_momentum",
        float,
        None,
        "Of local_steps: Nesterov momentum of the mean movements, in [0, 1). Not "
        "given: 0.6.",
    ),
    FlagRow(
        "freeze_step",
        int,
        None,
        "Of adamw: steps with whole gradients; then its variance is frozen, and "
        "the momentum is compressed in the gradient's place. Not given: never.",
    ),
    FlagRow(
        "compressor",
        str,
        "none",
        "What each worker sends of its gradient: none (everything), "
        "hard_threshold (the entries of at least --threshold), adaptive_threshold "
        "(the same, the threshold steered so that the run sends --density), topk "
        "(the largest, --density of them), topk_schedule (the largest, as many as "
        "--counts says), random_k (random ones, --density of them), accordion (the "
        "largest, --low_density or --high_density of each tensor) or dgc (topk "
        "with --memory dgc).",
    ),
    FlagRow(
        "threshold",
        float,
        None,
        "Of hard_threshold: least magnitude that is sent, in units of one "
        "worker's own mean-loss gradient, whatever the number of workers. Higher: "
        "fewer are sent.",
    ),
    FlagRow(
        "density",
        float,
        None,
        "Of topk, random_k, dgc and adaptive_threshold: share of entries sent, in "
        "(0, 1]; of adaptive_threshold that of the whole run.",
    ),
    FlagRow(
        "density_ramp_steps",
        int,
        None,
        "Of topk, random_k and dgc: steps in which the density falls from 0.25 to "
        "--density. Without it: no fall.",
    ),
    FlagRow(
        "low_density",
        float,
        None,
        "Of accordion: share of a tensor's entries sent while its gradient changes "
        "little, in (0, 1].",
    ),
    FlagRow(
        "high_density",
        float,
        None,
        "Of accordion: share sent else, in (0, 1].",
    ),
    FlagRow(
        "accordion_interval",
        int,
        None,
        "Of accordion: steps between two decisions. Without it: those of 10 "
        "epochs, as in the study.",
    ),
    FlagRow(
        "counts",
        str,
        None,
        "Of topk_schedule: text file with the number of entries to send, one line "
        "for each step.",
    ),
    FlagRow(
        "topk_scope",
        str,
        None,
        "Of topk and dgc: layer (the share of every tensor), model (of all "
        "together) or block (of each 4,096 entries of a tensor). Without it: "
        "layer.",
    ),
    FlagRow(
        "error_feedback",
        bool,
        True,
        "Whether a worker adds what it did not send to its next gradient.",
    ),
    FlagRow(
        "memory",
        str,
        None,
        "In what form: error_feedback, decaying_error_feedback, dgc (the worker's "
        "own momentum, masked), ef21 or ef21_sgdm. Without it: error_feedback, and "
        "dgc with --compressor dgc. With dgc and ef21_sgdm pass --optimizer sgd, "
        "without momentum.",
    ),
    FlagRow(
        "memory_decay",
        float,
        None,
        "Of decaying_error_feedback: what is held back is multiplied by this at "
        "each step, in (0, 1].",
    ),
    FlagRow(
        "memory_momentum",
        float,
        None,
        "Of dgc and ef21_sgdm, in (0, 1). Without it: 0.9; of ef21_sgdm 0.1, the "
        "weight of the newest gradient.",
    ),
    FlagRow(
        "dense_below",
        int,
        0,
        "Tensors with fewer entries than this are sent whole.",
    ),
    FlagRow(
        "warmup_steps", int, 0, "Number of first steps in which everything is sent."
    ),
    FlagRow(
        "local_clipnorm",
        float,
        None,
        "Largest norm of a worker's own gradient; longer ones are scaled down to "
        "it before compression. Without it: no clipping.",
    ),
    FlagRow(
        "value_dtype",
        str,
        "float32",
        "How sent values travel: float32, bfloat16, float16, or in 8, 4, 2 bits or "
        "one: int8, int4, int2, sign. What rounding takes away stays in the "
        "residual.",
    ),
)
