"""What the study fixes beforehand: seeds, lengths, and how a row's settings are chosen.

Rates and each row's own settings are in benchmarks/time_to_target_rows.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Plan(NamedTuple):
    """The study's size.

    Attributes:
        workers: Their number.
        check_steps: Between two looks at the validation split.
        first_check: Before this step nobody looks: none is there before.
        tuning_seed: Of the runs that choose among settings; in no result.
        tuning_steps: Length of those, each with a schedule of its own.
        dense_steps: Of dense training, whose final error makes the target.
        lengths: Of schedules, the shortest first: a row takes the first by which it
            comes to the target.
        seeds: Of the results, on loopback. The first is that of all other links.
        settings: What replaces a row's own settings and grids, for rehearsals.
        is_tiny: Whether networks and validation are those of rehearsals.
    """

    workers: int
    check_steps: int
    first_check: int
    tuning_seed: int
    tuning_steps: int
    dense_steps: int
    lengths: tuple[int, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, Any] = {}
    is_tiny: bool = False


WHOLE = Plan(
    workers=4,
    check_steps=50,
    first_check=300,
    tuning_seed=0,
    tuning_steps=500,
    dense_steps=500,
    lengths=(500, 750, 1000, 1500),
    seeds=(1, 2, 3),
)
QUICK = Plan(
    workers=2,
    check_steps=10,
    first_check=0,
    tuning_seed=0,
    tuning_steps=10,
    dense_steps=20,
    lengths=(20, 30),
    seeds=(1,),
    settings={"rate": 1e-3, "local_steps": 5, "freeze_step": 5},
    is_tiny=True,
)

# Rows whose arithmetic is another's take its rate and grid, whatever their framework:
# what differs is how values travel.
TUNED_AS = {
    "DDP float32": "TensorFlow dense",
    "DDP float16": "TensorFlow dense",
    "DDP PowerSGD": "PowerSGD",
    "DiLoCo float32": "LocalUpdates float32",
    "DiLoCo bfloat16": "LocalUpdates float32",
    "1-bit Adam": "CompressedAdamW",
}
