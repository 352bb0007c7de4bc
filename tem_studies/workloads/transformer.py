"""A small GPT: a transformer that predicts each next character from those before it.

    x ← E[c] + P      x ← x + A(N(x)),  x ← x + F(N(x)), n times      logits = N(x) Eᵀ

with E the embedding, which is the head's matrix too, P a row for each place of the
context, N layer normalisation, A causal attention of several heads and F two dense
layers with GELU between them. Nothing has a bias. Dropout acts on the first x, on the
attention's weights, and on what A and F give.

Initial values are normal of deviation 0.02, and of 0.02/√(2n) for the last matrices of
A and F, whose outputs add up 2n times.

References:
    Radford et al., "Language models are unsupervised multitask learners", 2019 (GPT-2),
    in the form of karpathy/nanoGPT; Press and Wolf, EACL 2017, arXiv 1608.05859 (tied
    embeddings).
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

_DEVIATION = 0.02  # GPT-2's.
_EPSILON = 1e-5  # Of N: PyTorch's, so nanoGPT's.
_WIDER = 4  # Width of F's inner layer, in widths of x: as in GPT-2.

Draw = Callable[..., keras.initializers.Initializer]


class Transformer(keras.Model):
    """Predicts each next character.

    Args:
        characters: Size of the vocabulary.
        context: Most characters that a prediction is made from.
        layers: Number of A and of F.
        heads: Of each A; divides `features`.
        features: Width of x.
        dropout: Float in [0, 1). Share of entries set to 0 in training.
        seed: Integer >= 0. The same seed draws the same initial weights.
    """

    def __init__(
        self,
        characters: int,
        context: int = 64,
        layers: int = 4,
        heads: int = 4,
        features: int = 128,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(name="gpt")
        seeds = np.random.default_rng(np.random.SeedSequence(seed))

        def normal(deviation: float = _DEVIATION) -> keras.initializers.Initializer:
            return keras.initializers.RandomNormal(
                0.0, deviation, int(seeds.integers(2**31))
            )

        self.context = context
        self._rate = dropout
        self._embedding = self.add_weight(
            (characters, features), normal(), name="embedding"
        )
        self._places = self.add_weight((context, features), normal(), name="places")
        self._blocks = [
            Block(context, heads, features, dropout, layers, normal, f"block_{i + 1}")
            for i in range(layers)
        ]
        self._norm = _norm(features, "norm")
        self.built = True

    def call(self, characters: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Reads stretches of text.

        Args:
            characters: int32 (stretches, length), length static and at most `context`.
            seed: int32 (2,), of the dropout; None drops nothing.

        Returns:
            Logits of the next characters, float32 (stretches, length, vocabulary).
        """
        length = characters.shape[1]
        embedding = tf.convert_to_tensor(self._embedding)
        places = tf.convert_to_tensor(self._places)
        x = tf.gather(embedding, characters) + places[:length]
        x = _dropped(x, self._rate, seed, 0)
        for i, block in enumerate(self._blocks):
            inner = None if seed is None else _fold_in(seed, i + 1)
            x = block(x, inner)
        flat = tf.reshape(self._norm(x), [-1, embedding.shape[1]])
        logits = tf.matmul(flat, embedding, transpose_b=True)
        return tf.reshape(logits, [-1, length, embedding.shape[0]])


class Block(keras.layers.Layer):
    """x ← x + A(N(x)), then x ← x + F(N(x)).

    Args:
        context: Most places of x.
        heads: Of the attention.
        features: Width of x.
        dropout: As of `Transformer`.
        layers: Of the whole network.
        normal: Makes an initializer.
        name: The layer's.
    """

    def __init__(
        self,
        context: int,
        heads: int,
        features: int,
        dropout: float,
        layers: int,
        normal: Draw,
        name: str,
    ) -> None:
        super().__init__(name=name)
        self._heads = heads
        self._rate = dropout
        self._is_before = np.tril(np.ones((context, context), bool))
        last = _DEVIATION / (2 * layers) ** 0.5

        def dense(
            width: int, outputs: int, deviation: float, name: str
        ) -> keras.layers.Dense:
            # Names are the whole network's, as paths of its variables must differ.
            layer = keras.layers.Dense(
                outputs,
                use_bias=False,
                kernel_initializer=normal(deviation),
                name=f"{self.name}_{name}",
            )
            layer.build((None, None, width))
            return layer

        self._attention_norm = _norm(features, f"{name}_attention_norm")
        # Queries, keys and values of all heads in one product.
        self._asked = dense(features, 3 * features, _DEVIATION, "queries_keys_values")
        self._joined = dense(features, features, last, "joined")
        self._dense_norm = _norm(features, f"{name}_dense_norm")
        self._wide = dense(features, _WIDER * features, _DEVIATION, "wide")
        self._narrow = dense(_WIDER * features, features, last, "narrow")
        self.built = True

    def call(self, x: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Float32 (stretches, length, features), before and after."""
        attended = self._attention(self._attention_norm(x), seed)
        x = x + _dropped(attended, self._rate, seed, 1)
        inner = keras.ops.gelu(self._wide(self._dense_norm(x)), approximate=False)
        return x + _dropped(self._narrow(inner), self._rate, seed, 2)

    def _attention(self, x: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """Each place asks all places up to its own."""
        length, features = x.shape[1:]
        each = features // self._heads
        asked = tf.reshape(self._asked(x), [-1, length, 3, self._heads, each])
        queries, keys, values = tf.unstack(tf.transpose(asked, [2, 0, 3, 1, 4]))
        scores = tf.matmul(queries, keys, transpose_b=True) * each**-0.5
        is_before = self._is_before[:length, :length]
        weights = tf.nn.softmax(tf.where(is_before, scores, -np.inf))
        weights = _dropped(weights, self._rate, seed, 0)
        found = tf.transpose(tf.matmul(weights, values), [0, 2, 1, 3])
        return self._joined(tf.reshape(found, [-1, length, features]))


def _norm(features: int, name: str) -> keras.layers.LayerNormalization:
    layer = keras.layers.LayerNormalization(center=False, epsilon=_EPSILON, name=name)
    layer.build((None, None, features))
    return layer


def _dropped(
    x: tf.Tensor, rate: float, seed: tf.Tensor | None, place: int
) -> tf.Tensor:
    if seed is None or not rate:
        return x
    return tf.nn.experimental.stateless_dropout(x, rate, _fold_in(seed, place))


def _fold_in(seed: tf.Tensor, number: int) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(seed, number)
