"""Compressors: which entries of a corrected gradient a worker sends.

`contract` says what a compressor is; the others are families of them.
"""

from tem_tf.compressors.contract import (
    Compressor,
    Identity,
    Message,
    Observed,
    State,
)
from tem_tf.compressors.random_k import RandomK
from tem_tf.compressors.schedules import Piecewise, Ramp, Schedule
from tem_tf.compressors.thresholds import AdaptiveThreshold, HardThreshold
from tem_tf.compressors.topk import Accordion, TopK, TopKSchedule

COMPRESSORS: dict[str, type[Compressor]] = {
    "none": Identity,
    "hard_threshold": HardThreshold,
    "topk": TopK,
    "topk_schedule": TopKSchedule,
    "random_k": RandomK,
    "accordion": Accordion,
    "adaptive_threshold": AdaptiveThreshold,
}

__all__ = [
    "COMPRESSORS",
    "Accordion",
    "AdaptiveThreshold",
    "Compressor",
    "HardThreshold",
    "Identity",
    "Message",
    "Observed",
    "Piecewise",
    "Ramp",
    "RandomK",
    "Schedule",
    "State",
    "TopK",
    "TopKSchedule",
]
