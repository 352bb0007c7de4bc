"""What compressors and memories may say, checked where a step is traced.

What the path cannot carry is refused here, by name, and never summed or kept wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tem_tf.compressors.contract import (
    MOST_ROUNDS,
    Asked,
    Broadcast,
    Done,
    Gather,
    Message,
    Sum,
)
from tem_tf.compressors.rules import Selection
from tem_tf.layout import Segments
from tem_tf.sparse_gradient import SparseGradient


def check_vectors(what: str, value: Any, segments: Segments) -> None:
    """Raises ValueError unless it is a floating vector for each segment.

    Args:
        what: How an error names it.
        value: What was returned.
        segments: Names and sizes of the variables.
    """
    if not isinstance(value, Sequence) or len(value) != len(segments):
        found = f"{len(value)} of them" if isinstance(value, Sequence) else type(value)
        raise ValueError(
            f"`{what}` must be a list of {len(segments)} vectors, one for each "
            f"variable. Received: {found}"
        )
    for vector, segment in zip(value, segments, strict=True):
        shape, dtype = tf.TensorShape(vector.shape), tf.as_dtype(vector.dtype)
        if not dtype.is_floating or not shape.is_compatible_with([segment.size]):
            raise ValueError(
                f"`{what}` must be floating vectors: of {segment.name} one of "
                f"({segment.size},). Received: {dtype.name} {shape}"
            )


def check_asked(asked: Any, answers: int) -> None:
    """Raises ValueError unless a compressor may say this.

    Args:
        asked: What it says.
        answers: Int. How many it has heard in this step.
    """
    if not isinstance(asked, Asked):
        raise ValueError(
            "`compress` must return tem_tf.Gather, Sum, Broadcast or Done. "
            f"Received: {type(asked).__name__}"
        )
    if isinstance(asked, Done) and not answers:
        raise ValueError(
            "A compressor must ask for something before it is done: nothing would be "
            "exchanged. Received: tem_tf.Done at once."
        )
    if answers >= MOST_ROUNDS and not isinstance(asked, Done):
        raise ValueError(
            f"A compressor may ask at most {MOST_ROUNDS} times in a step. "
            f"Received: one more tem_tf.{type(asked).__name__}"
        )
    if isinstance(asked, Sum | Broadcast) and not isinstance(asked.values, Sequence):
        raise ValueError(
            f"`values` of tem_tf.{type(asked).__name__} must be a list of tensors. "
            f"Received: {type(asked.values).__name__}"
        )
    if isinstance(asked, Gather) and not isinstance(
        asked.message, (Selection, SparseGradient, Message)
    ):
        raise ValueError(
            "`message` of tem_tf.Gather must be a tem_tf.SparseGradient or a subclass "
            f"of tem_tf.Message. Received: {type(asked.message).__name__}"
        )


def check_own(own: Any) -> None:
    """Raises ValueError if neither a message nor `Done` told what has left."""
    if not own:
        raise ValueError(
            "A compressor that gathers no message must say in tem_tf.Done what has "
            "left the corrected gradient. Received: own=None"
        )
