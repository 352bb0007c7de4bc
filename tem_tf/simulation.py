"""One exchange of a compressor over simulated workers, which are the rows of a matrix.

Every stage of the compressor is one vectorised call for all workers; no process, no
device, no wire. Floating dtypes stay what they are, so that a study in float64 is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tem_tf.compressors import (
    Broadcast,
    Compressor,
    Done,
    Gather,
    Heard,
    Sum,
    check_asked,
    check_own,
)
from tem_tf.layout import Segments, unpack


class Simulated(NamedTuple):
    """What an exchange of W workers yields.

    Attributes:
        own: Tensors (W, size), one for each segment: what left each worker's corrected
            gradient.
        total: Vectors (size,), one for each segment: what all have. Σ own = total.
        states: The compressors' new states, W rows in every leaf.
    """

    own: list[tf.Tensor]
    total: list[tf.Tensor]
    states: Any


def exchange(
    compressor: Compressor,
    states: Any,
    corrected: Sequence[tf.Tensor],
    step: tf.Tensor,
    segments: Segments,
    gradient: Sequence[tf.Tensor] | None = None,
) -> Simulated:
    """Runs all rounds of one step.

    Args:
        compressor: What the workers send.
        states: Its states, W rows in every leaf.
        corrected: Floating (W, size), one for each segment.
        step: int64 scalar.
        segments: Of the variables.
        gradient: As `corrected`, before memory, for what is shared. Default: the same.

    Raises:
        ValueError: the compressor asks for nothing, too often, or for something else.
    """
    workers = corrected[0].shape[0]
    shared = tf.zeros([0])
    if compressor.shares:
        shares = tf.vectorized_map(
            lambda row: compressor.share(row[0], row[1], step, segments),
            (states, list(gradient or corrected)),
        )
        shared = tf.reduce_sum(shares, axis=0)
    heard: list[Heard] = []  # With the carries of all workers.
    own: list[tf.Tensor] = []

    while True:
        kinds: list[type] = []
        answers = list(heard)

        def ask(row: Any, kinds=kinds, answers=answers) -> Any:
            state, vectors, carries = row
            told = tuple(
                answer._replace(carry=carry)
                for answer, carry in zip(answers, carries, strict=True)
            )
            asked = compressor.compress(state, vectors, step, segments, told)
            check_asked(asked, len(told))
            kinds.append(type(asked))
            if isinstance(asked, Gather):
                entries = tf.cast(asked.message.entries(), tf.int64)
                return asked.message.to_dense(), entries, asked.carry
            if isinstance(asked, Sum | Broadcast):
                root = tf.cast(getattr(asked, "root", 0), tf.int32)
                return list(asked.values), root, asked.carry
            left = [] if asked.own is None else list(asked.own)
            return left, list(asked.total), asked.state

        # Eagerly an answer that is passed on would be no tensor of the graph in which
        # this is traced, but for the identity.
        said = tf.vectorized_map(
            lambda row, ask=ask: tf.nest.map_structure(tf.identity, ask(row)),
            (states, list(corrected), [answer.carry for answer in heard]),
        )
        if kinds[-1] is Done:
            left, total, states = said
            check_own(left or own)
            return Simulated(left or own, [rows[0] for rows in total], states)
        if kinds[-1] is Gather:
            dense, entries, carry = said
            own = [
                tf.reshape(part, [workers, segment.size])
                for part, segment in zip(
                    tf.split(dense, [s.size for s in segments], axis=1),
                    segments,
                    strict=True,
                )
            ]
            total = unpack(tf.reduce_sum(dense, axis=0), segments)
            count = tf.reduce_sum(entries)
        else:
            values, roots, carry = said
            count = tf.cast(sum(tf.size(rows) for rows in values), tf.int64)
            if kinds[-1] is Sum:
                total = [tf.reduce_sum(rows, axis=0) for rows in values]
            else:
                total = [rows[roots[0] % workers] for rows in values]
        heard.append(Heard(total, count, workers, shared, carry))


def repeat(state: Any, workers: int) -> Any:
    """States of W workers that all begin with the same one."""
    return tf.nest.map_structure(
        lambda leaf: tf.repeat(tf.convert_to_tensor(leaf)[tf.newaxis], workers, axis=0),
        state,
    )
