"""Compressors: what a replica says of its corrected gradient.

`contract` says what a compressor is; `rules` how entries are named; the others are
families of compressors.
"""

from tem_tf.compressors.all_entries import AllEntries
from tem_tf.compressors.checks import check_asked, check_own, check_vectors
from tem_tf.compressors.contract import (
    MOST_ROUNDS,
    Asked,
    Broadcast,
    Compressor,
    Done,
    Everything,
    Gather,
    Heard,
    Identity,
    Message,
    Sparsifier,
    State,
    Sum,
)
from tem_tf.compressors.cyclic_topk import CyclicTopK
from tem_tf.compressors.low_rank import PowerSGD
from tem_tf.compressors.random_k import RandomK
from tem_tf.compressors.rules import RULES, At, AtLeast, Largest, Rule, Selection
from tem_tf.compressors.schedules import Piecewise, Ramp, Schedule
from tem_tf.compressors.sign import Sign
from tem_tf.compressors.thresholds import AdaptiveThreshold, HardThreshold
from tem_tf.compressors.topk import Accordion, TopK, TopKSchedule

COMPRESSORS: dict[str, type[Compressor]] = {
    "none": Identity,
    "all": AllEntries,
    "hard_threshold": HardThreshold,
    "topk": TopK,
    "topk_schedule": TopKSchedule,
    "random_k": RandomK,
    "accordion": Accordion,
    "adaptive_threshold": AdaptiveThreshold,
}

__all__ = [
    "COMPRESSORS",
    "MOST_ROUNDS",
    "RULES",
    "Accordion",
    "AllEntries",
    "AdaptiveThreshold",
    "Asked",
    "At",
    "AtLeast",
    "Broadcast",
    "Compressor",
    "Done",
    "Everything",
    "Gather",
    "Heard",
    "Identity",
    "Largest",
    "Message",
    "Piecewise",
    "CyclicTopK",
    "PowerSGD",
    "Ramp",
    "RandomK",
    "Rule",
    "Schedule",
    "Selection",
    "Sign",
    "Sparsifier",
    "State",
    "Sum",
    "TopK",
    "TopKSchedule",
    "check_asked",
    "check_own",
    "check_vectors",
]
