"""Rules: which entries of a corrected gradient a sparsifier sends, as data.

The mask, the message, the vectorised form and the native kernel all follow from the
rule, so that a new sparsifier has them all by stating one.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tem_tf.layout import Segments, each, pack
from tem_tf.sparse_gradient import MaskedGradient, SparseGradient


class AtLeast(NamedTuple):
    """The entries of at least this magnitude: |p| >= λ.

    Attributes:
        threshold: Scalar >= 0, of any floating dtype.
    """

    threshold: tf.Tensor


class Largest(NamedTuple):
    """The k entries of greatest magnitude; of equals the lower position, no zeros.

    Attributes:
        counts: k, an int or int32 scalar: one for all entries, or one for each segment.
        most: Ints that the counts do not exceed, as many. Needed where counts are
            tensors and differ between simulated workers.
        block: Int >= 1 or None. The counts hold for each so many entries that lie side
            by side in a segment, or in the whole; for fewer at the end their share, at
            least one. Such counts are ints.
    """

    counts: Sequence[int | tf.Tensor]
    most: Sequence[int] | None = None
    block: int | None = None


class At(NamedTuple):
    """The entries at given positions, the same ones on all replicas.

    Attributes:
        positions: int32 (k,), distinct, in the packed vector. They must follow from
            what all replicas know: values at the same place of the list are summed.
        count: Int or int32 scalar <= k. The first so many are meant; None: all. For
            where k must be static, as under XLA.
    """

    positions: tf.Tensor
    count: int | tf.Tensor | None = None

    def meant(self) -> tf.Tensor:
        """The positions that are meant: int32 vector."""
        return self.positions if self.count is None else self.positions[: self.count]


Rule = AtLeast | Largest | At
RULES = (AtLeast, Largest, At)


class Selection(NamedTuple):
    """The message of a sparsifier: what a rule takes of a corrected gradient.

    Attributes:
        corrected: Floating vectors, one for each segment.
        rule: Which of their entries.
    """

    corrected: Sequence[tf.Tensor]
    rule: Rule

    @property
    def known(self) -> bool:
        """Whether all replicas know the positions, so that none travel."""
        return isinstance(self.rule, At)

    def entries(self) -> tf.Tensor:
        """How many entries are selected: int32 scalar."""
        if isinstance(self.rule, At):
            return tf.size(self.rule.meant())
        return tf.reduce_sum(tf.cast(_mask(self.corrected, self.rule), tf.int32))

    def to_dense(self) -> tf.Tensor:
        """Returns the vector (n,) that this message stands for."""
        vector = pack(self.corrected)
        return vector * tf.cast(_mask(self.corrected, self.rule), vector.dtype)

    def to_sparse(self) -> SparseGradient:
        """Returns the selected entries."""
        vector = pack(self.corrected)
        if isinstance(self.rule, At):
            positions = self.rule.meant()
            values = tf.gather(vector, positions)
            return SparseGradient(values, positions, vector.shape[0], known=True)
        if self._takes_all():
            size = vector.shape[0]
            return SparseGradient(vector, tf.range(size), size, whole=True)
        return SparseGradient.from_mask(vector, _mask(self.corrected, self.rule))

    def _takes_all(self) -> bool:
        """Whether that is known before any value is."""
        rule = self.rule
        return isinstance(rule, AtLeast) and tf.get_static_value(rule.threshold) == 0

    def to_masked(self) -> MaskedGradient:
        """Returns the selected entries, in shapes that hang on no value.

        The largest k entries, where k is a tensor, are found by the rank of all.
        """
        rule, vector = self.rule, pack(self.corrected)
        if isinstance(rule, Largest) and rule.most is None and rule.block is None:
            parts = [vector] if len(rule.counts) == 1 else self.corrected
            most = [
                part.shape[0] if isinstance(count, tf.Tensor) else count
                for part, count in zip(parts, rule.counts, strict=True)
            ]
            rule = rule._replace(most=most)
        mask = _mask(self.corrected, rule)
        kept = tf.where(mask, vector, tf.zeros_like(vector))
        return MaskedGradient(kept, mask, self.known)


def check_rule(rule: Any, name: str, segments: Segments) -> None:
    """Raises ValueError unless it is a rule, for so many variables.

    Args:
        rule: What `rule` has returned.
        name: Of the sparsifier.
        segments: Of the variables.
    """
    if not isinstance(rule, RULES):
        raise ValueError(
            f"`rule` of {name} must return tem_tf.AtLeast, tem_tf.Largest or "
            f"tem_tf.At. Received: {type(rule).__name__}. For anything else implement "
            "`compress`."
        )
    if isinstance(rule, AtLeast):
        threshold = tf.convert_to_tensor(rule.threshold)
        if threshold.shape.rank != 0 or not threshold.dtype.is_floating:
            raise ValueError(
                "`threshold` of tem_tf.AtLeast must be one floating number. "
                f"Received: {threshold.dtype.name} {threshold.shape} of {name}"
            )
    elif isinstance(rule, At):
        positions = rule.positions
        if not isinstance(positions, tf.Tensor) or (
            positions.dtype != tf.int32 or positions.shape.rank != 1
        ):
            raise ValueError(
                "`positions` of tem_tf.At must be an int32 vector, a tensor. "
                f"Received: positions={positions!r} of {name}"
            )
        if rule.count is not None and not _is_count(rule.count):
            raise ValueError(
                "`count` of tem_tf.At must be an integer >= 0, or None. "
                f"Received: count={rule.count!r} of {name}"
            )
    else:
        for what, counts in (("counts", rule.counts), ("most", rule.most)):
            if counts is not None:
                _check_counts(what, counts, name, segments)
        if rule.block is None:
            return
        static = all(isinstance(count, numbers.Integral) for count in rule.counts)
        if not (_is_count(rule.block) and static and int(rule.block) >= 1):
            raise ValueError(
                "`block` of tem_tf.Largest must be an integer >= 1, or None, and the "
                f"counts integers with it. Received: block={rule.block!r}, "
                f"counts={rule.counts!r} of {name}"
            )


def _check_counts(what: str, counts: Any, name: str, segments: Segments) -> None:
    of_one = isinstance(counts, Sequence) and len(counts) in {1, len(segments)}
    if not of_one or not all(_is_count(count) for count in counts):
        raise ValueError(
            f"`{what}` of tem_tf.Largest must be integers >= 0, a list of one for all "
            f"entries or of one for each of {len(segments)} variables. "
            f"Received: {what}={counts!r} of {name}"
        )


def _is_count(count: Any) -> bool:
    if isinstance(count, tf.Tensor):
        return count.dtype.is_integer and count.shape.rank == 0
    return isinstance(count, numbers.Integral) and int(count) >= 0


def _mask(corrected: Sequence[tf.Tensor], rule: Rule) -> tf.Tensor:
    """Bool (n,), true where an entry is selected."""
    if isinstance(rule, AtLeast):
        vector = pack(corrected)
        return tf.abs(vector) >= tf.cast(rule.threshold, vector.dtype)
    if isinstance(rule, At):
        count = rule.count
        chosen = True if count is None else tf.range(tf.size(rule.positions)) < count
        return _mask_of(rule.positions, pack(corrected).shape[0], chosen)
    # "Of all" and "of each" are one thing where there is one segment.
    parts = [pack(corrected)] if len(rule.counts) == 1 else list(corrected)
    if rule.block is not None:
        blocks = [rule.block] * len(parts)
        return pack(each(mask_of_largest_in_blocks, parts, rule.counts, blocks))
    most = rule.most or [None] * len(parts)
    return pack(each(mask_of_largest, parts, rule.counts, most))


def mask_of_largest(
    vector: tf.Tensor, count: int | tf.Tensor, most: int | None = None
) -> tf.Tensor:
    """Bool (n,), true at the `count` entries of greatest magnitude.

    No more than `most` may be asked for. Of equal magnitudes the lower index comes
    first. Entries that are 0 are not among them: they decode to 0 without being sent.
    """
    size = vector.shape[0]
    if size == 0:
        return tf.zeros([0], tf.bool)
    largest = count if most is None else most
    fits = isinstance(largest, tf.Tensor)
    largest = tf.minimum(largest, size) if fits else min(int(largest), size)
    order = tf.math.top_k(tf.abs(vector), largest).indices
    chosen = True if most is None else tf.range(largest) < count
    return _mask_of(order, size, chosen) & tf.not_equal(vector, 0)


def mask_of_largest_in_blocks(vector: tf.Tensor, count: int, block: int) -> tf.Tensor:
    """Bool (n,), true at the `count` entries of greatest magnitude of each block.

    Args:
        vector: Floating (n,), n static.
        count: Of a whole block.
        block: Its length. The last one may be shorter, and has its share.
    """
    whole = vector.shape[0] // block
    rest = vector.shape[0] - whole * block
    masks = []
    if whole:
        rows = tf.reshape(vector[: whole * block], [whole, block])
        order = tf.math.top_k(tf.abs(rows), min(count, block)).indices
        starts = block * tf.range(whole)[:, tf.newaxis]
        order = tf.reshape(order + starts, [-1])
        masks.append(_mask_of(order, whole * block))
    if rest:
        share = share_of_block(count, rest, block)
        masks.append(mask_of_largest(vector[whole * block :], share))
    if not masks:
        return tf.zeros([0], tf.bool)
    return tf.concat(masks, axis=0) & tf.not_equal(vector, 0)


def share_of_block(count: int, size: int, block: int) -> int:
    """How many entries a block that is shorter than others has."""
    return max(1, count * size // block)


def _mask_of(indices: tf.Tensor, size: int, values: Any = True) -> tf.Tensor:
    """Bool (size,), false but at `indices` (k,)."""
    values = tf.broadcast_to(values, tf.shape(indices))
    return tf.tensor_scatter_nd_update(
        tf.zeros([size], tf.bool), indices[:, tf.newaxis], values
    )
