"""The ways to train that time_to_target.py compares: its rows, and what is tuned.

A row's grid is tried by short runs; what is not in it is fixed here beforehand. This
file imports no framework.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

WORKERS = 4
# Those of four workers see as many examples as nanoGPT's 2,000 for a CPU.
STEPS = 500
CHECK_STEPS = 50  # Between two looks at the validation split; every H divides it.

# AdamW's, as nanoGPT's (tem_studies/workloads/gpt_settings.py).
BETAS, EPSILON, DECAY = (0.9, 0.99), 1e-8, 0.1
CLIPNORM = 1.0  # Of the GPT.
MOMENTUM = 0.9  # Of SGD, by which the CNN trains where no row needs AdamW.
FIRST_POWER_SGD_STEP = 2  # The least that PyTorch's hook allows with error feedback.
# Of DDP: more than all variables have. PowerSGD's hook begins its sums from threads
# that end in any order, so that gloo would take one bucket's for another's.
ONE_BUCKET_MB = 64


class Row(NamedTuple):
    """A way to train.

    Attributes:
        framework: "keras" or "torch".
        way: What time_to_target_keras.py and time_to_target_torch.py know it by.
        fixed: Settings that are not tuned.
        grid: What is tried of each other setting, by job where jobs differ.
        is_adamw: Whether it is AdamW for every job.
    """

    framework: str
    way: str
    fixed: Mapping[str, Any] = {}
    grid: Mapping[str, tuple] = {}
    is_adamw: bool = False


_LOCAL = {"local_steps": (10, 50)}
# For all rows of local steps: DiLoCo's own, 0.7 and 0.9, end 3 % higher at H = 10
# (studies/frontier).
_OUTER = {"outer_rate": 0.9, "outer_momentum": 0.6}
_RANK = {"rank": 4}  # The rank of the PowerSGD paper's tables; in both frameworks.

ROWS = {
    "TensorFlow dense": Row("keras", "dense"),
    "DDP float32": Row("torch", "ddp"),
    "DDP float16": Row("torch", "ddp_float16"),
    "DDP PowerSGD": Row("torch", "ddp_power_sgd", _RANK),
    "DiLoCo float32": Row("torch", "diloco", {**_OUTER, "dtype": "float32"}, _LOCAL),
    "DiLoCo bfloat16": Row("torch", "diloco", {**_OUTER, "dtype": "bfloat16"}, _LOCAL),
    "1-bit Adam": Row(
        "torch", "one_bit_adam", grid={"freeze_step": (50,)}, is_adamw=True
    ),
    "threshold": Row("keras", "threshold", grid={"threshold": (0.003, 0.01)}),
    "Top-k 16 bits": Row("keras", "topk", fixed={"density": 1 / 16}),
    "PowerSGD": Row("keras", "power_sgd", _RANK),
    "CompressedAdamW": Row(
        "keras", "signs", grid={"freeze_step": (50,)}, is_adamw=True
    ),
    "LocalUpdates float32": Row(
        "keras", "local", {**_OUTER, "value_dtype": "float32"}, _LOCAL
    ),
    # The best two of studies/frontier: above two bits a parameter and step, and below.
    "AllEntries int2": Row("keras", "all_entries", {"value_dtype": "int2"}),
    "LocalUpdates int2": Row(
        "keras", "local", {**_OUTER, "value_dtype": "int2"}, _LOCAL
    ),
    # At once beside one step of ten, or a tenth beside each.
    "LocalUpdates int2, streamed": Row(
        "keras",
        "local",
        {**_OUTER, "local_steps": 10, "value_dtype": "int2"},
        {"fragments": (1, 10)},
    ),
    "LocalUpdates signs, H = 25": Row(
        "keras", "local", {**_OUTER, "local_steps": 25, "value_dtype": "sign"}
    ),
}
OURS = tuple(
    name
    for name, row in ROWS.items()
    if row.framework == "keras" and row.way != "dense"
)
DENSE = "TensorFlow dense"

# The highest rates that are tried, for all rows alike, by optimizer. AdamW's is what
# studies/frontier found: best of 0.002, 0.004 and 0.008 for dense training of the GPT,
# and of 0.002, 0.004 and 0.006 for local steps.
RATES = {
    "adamw": (4e-3,),
    "sgd": (0.025, 0.05, 0.1),
}


def optimizer_of(job: str, row: Row) -> str:
    """By what a row trains a job: "adamw" or "sgd"."""
    return "adamw" if job == "gpt" or row.is_adamw else "sgd"


def grid(job: str, row: Row) -> list[dict[str, Any]]:
    """All settings of a row that are tried, `steps` apart."""
    tried = {"rate": RATES[optimizer_of(job, row)], **row.grid}
    return [
        {"optimizer": optimizer_of(job, row), **row.fixed}
        | dict(zip(tried, values, strict=True))
        for values in itertools.product(*tried.values())
    ]


def usual(job: str, row: Row) -> dict[str, Any]:
    """Settings of a row that nobody has tuned: the first of every grid."""
    return grid(job, row)[0]
