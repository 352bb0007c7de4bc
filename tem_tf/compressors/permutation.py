"""Pseudo-random permutations, evaluated at some places: TensorFlow's, also under XLA.

`tf.random.experimental.index_shuffle` is one operation, for the CPU alone. Where XLA
compiles the graph the same numbers are computed from operations that it knows: a block
cipher of 2W bits, four rounds of Simon with the words left and right,

    F(x) = (x <<< 1 & x <<< 8) ^ (x <<< 2)
    left ^= F(right) ^ k_0;  right ^= F(left) ^ k_1;  likewise with k_2, k_3

repeated for every number that it moves out of the range until it comes back into it.
In a range much below 2^16 that takes long: TensorFlow's blocks are no smaller.

References:
    Beaulieu et al., Cryptology ePrint Archive 2013/404, for Simon;
    Black and Rogaway, CT-RSA 2002, for walking on until a number is in range.
"""

from __future__ import annotations

import tensorflow as tf

from tem_tf import _internals

_LEAST_BITS = 16  # Of a block, TensorFlow's choice.
# Keys are the number that TensorFlow puts before every seed, the seed, the step, and
# one that follows from them by Simon's schedule, with its constant and first bit.
_FIRST_KEY = 498247692
_CONSTANT = 0xFFFC ^ 1


def permuted(places: tf.Tensor, seed: int, step: tf.Tensor, most: int) -> tf.Tensor:
    """Returns where a permutation of [0, most] takes some places.

    Args:
        places: int32 (k,), in [0, most].
        seed: Int in [0, 2^31). With `step` it names the permutation.
        step: Integer scalar.
        most: Int in [0, 2^31).

    Returns:
        int32 (k,), distinct if the places are.
    """
    step = tf.cast(step, tf.int64)
    if _internals.in_xla():
        return _walked(places, seed, step, most)
    return tf.random.experimental.index_shuffle(
        places, seed=tf.stack([tf.constant(seed, tf.int64), step]), max_index=most
    )


def _walked(places: tf.Tensor, seed: int, step: tf.Tensor, most: int) -> tf.Tensor:
    """The same in operations that XLA knows."""
    if most == 0:
        return tf.zeros_like(places)
    bits = max((most - 1).bit_length(), _LEAST_BITS)  # ⌈log2⌉.
    width = (bits + 1) // 2  # W.
    word = 2**width - 1
    keys = [_FIRST_KEY & word, seed & word, tf.cast(step & word, tf.int32)]

    def rotated(x: tf.Tensor, by: int) -> tf.Tensor:
        """To the left, in W bits."""
        left = tf.bitwise.left_shift(x, by % width)
        return (left | tf.bitwise.right_shift(x, width - by % width)) & word

    turned = rotated(keys[2], -3) ^ rotated(keys[2], -4)
    keys.append((_CONSTANT & word) ^ keys[0] ^ turned)

    def mixed(x: tf.Tensor) -> tf.Tensor:
        return (rotated(x, 1) & rotated(x, 8)) ^ rotated(x, 2)

    def enciphered(x: tf.Tensor) -> tf.Tensor:
        left, right = tf.bitwise.right_shift(x, width) & word, x & word
        for first, second in (keys[:2], keys[2:]):
            left ^= mixed(right) ^ first
            right ^= mixed(left) ^ second
        return tf.bitwise.left_shift(left, width) | right

    def outside(x: tf.Tensor) -> tf.Tensor:
        return (x < 0) | (x > most)  # Of 32 bits, the first is no sign.

    (found,) = tf.while_loop(
        lambda x: tf.reduce_any(outside(x)),
        lambda x: (tf.where(outside(x), enciphered(x), x),),
        (enciphered(places),),
    )
    return found
