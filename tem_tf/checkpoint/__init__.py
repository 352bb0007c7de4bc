"""Checkpoints of training as a whole, from which it goes on bit for bit."""

from tem_tf.checkpoint.callback import Checkpoint
from tem_tf.checkpoint.parts import (
    Json,
    NamedArrays,
    Part,
    ReplicaStates,
    ReplicaVariables,
)
from tem_tf.checkpoint.stop_wish import Stopped

__all__ = [
    "Checkpoint",
    "Json",
    "NamedArrays",
    "Part",
    "ReplicaStates",
    "ReplicaVariables",
    "Stopped",
]
