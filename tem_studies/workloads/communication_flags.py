"""The flags of what the workers of one run send one another."""

from __future__ import annotations

from tem_studies.flag_row import FlagRow
from tem_studies.workloads.compression_rows import (
    COMPRESSOR_ROWS,
    MEMORY_ROWS,
    alternatives,
    owners,
)
from tem_studies.workloads.own_flags import OWN_FLAGS

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
        f"What each worker sends of its gradient: {alternatives(COMPRESSOR_ROWS)}.",
    ),
    *OWN_FLAGS,
    FlagRow(
        "threshold",
        float,
        None,
        f"Of {owners('threshold')}: least magnitude that is sent, in units of one "
        "worker's own mean-loss gradient, whatever the number of workers. Higher: "
        "fewer are sent.",
    ),
    FlagRow(
        "density",
        float,
        None,
        f"Of {owners('density')}: share of entries sent, in (0, 1]; of "
        "adaptive_threshold that of the whole run.",
    ),
    FlagRow(
        "density_ramp_steps",
        int,
        None,
        f"Of {owners('density_ramp_steps')}: steps in which the density falls from "
        "0.25 to --density. Without it: no fall.",
    ),
    FlagRow(
        "low_density",
        float,
        None,
        f"Of {owners('low_density')}: share of a tensor's entries sent while its "
        "gradient changes little, in (0, 1].",
    ),
    FlagRow(
        "high_density",
        float,
        None,
        f"Of {owners('high_density')}: share sent else, in (0, 1].",
    ),
    FlagRow(
        "accordion_interval",
        int,
        None,
        f"Of {owners('accordion_interval')}: steps between two decisions. Without "
        "it: those of 10 epochs, as in the study.",
    ),
    FlagRow(
        "counts",
        str,
        None,
        f"Of {owners('counts')}: text file with the number of entries to send, one "
        "line for each step.",
    ),
    FlagRow(
        "topk_scope",
        str,
        None,
        f"Of {owners('topk_scope')}: layer (the share of every tensor), model (of "
        "all together) or block (of each 4,096 entries of a tensor). Without it: "
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
        f"In what form: {alternatives(MEMORY_ROWS)}. Without it: error_feedback, "
        "and dgc with --compressor dgc. With dgc and ef21_sgdm pass --optimizer "
        "sgd, without momentum.",
    ),
    FlagRow(
        "memory_decay",
        float,
        None,
        f"Of {owners('memory_decay')}: what is held back is multiplied by this at "
        "each step, in (0, 1].",
    ),
    FlagRow(
        "memory_momentum",
        float,
        None,
        f"Of {owners('memory_momentum')}, in (0, 1). Without it: 0.9; of ef21_sgdm "
        "0.1, the weight of the newest gradient.",
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
