"""NeuMF: whether a user likes an item, from factors multiplied and from an MLP.

    logit = w · [p_u ∘ q_i, MLP([r_u, s_i])] + b

with p, q of 64 factors, r, s of 128, and an MLP of 256-128-64 with relu and dropout.
Initial values are the TEM study's: embeddings N(0, 0.01²), hidden layers Glorot
uniform, the last LeCun uniform, biases zero.

References:
    He et al., WWW 2017, arXiv 1708.05031, section 3.4; sizes of Sahu et al., NeurIPS
    2021, arXiv 2108.00951 (their code): 31,832,577 for 138,493 users and 26,744 items.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

FACTORS = 64
HIDDEN = (256, 128, 64)


class NeuMF(keras.Model):
    """The network. The same seed draws the same initial weights.

    Args:
        users, items: Their numbers.
        dropout: Float in [0, 1). Share of entries set to 0 after each hidden layer.
        seed: Integer >= 0.
    """

    def __init__(
        self, users: int, items: int, dropout: float = 0.5, seed: int = 0
    ) -> None:
        super().__init__(name="neumf")
        seeds = np.random.default_rng(np.random.SeedSequence(seed))

        def embedding(rows: int, width: int, name: str) -> keras.layers.Embedding:
            normal = keras.initializers.RandomNormal(0.0, 0.01, _drawn(seeds))
            layer = keras.layers.Embedding(
                rows, width, embeddings_initializer=normal, name=name
            )
            layer.build(None)
            return layer

        def dense(inputs: int, width: int, initialiser, name: str, **kwargs):
            layer = keras.layers.Dense(
                width,
                kernel_initializer=initialiser(seed=_drawn(seeds)),
                name=name,
                **kwargs,
            )
            layer.build((None, inputs))
            return layer

        half = HIDDEN[0] // 2
        self._rate = dropout
        self._user_factors = embedding(users, FACTORS, "user_factors")
        self._item_factors = embedding(items, FACTORS, "item_factors")
        self._user_inputs = embedding(users, half, "user_inputs")
        self._item_inputs = embedding(items, half, "item_inputs")
        glorot, lecun = (
            keras.initializers.GlorotUniform,
            keras.initializers.LecunUniform,
        )
        self._hidden = [
            dense(inputs, width, glorot, f"hidden_{i + 1}", activation="relu")
            for i, (inputs, width) in enumerate(
                zip((HIDDEN[0], *HIDDEN), HIDDEN, strict=False)
            )
        ]
        self._last = dense(FACTORS + HIDDEN[-1], 1, lecun, "logit")
        self.built = True

    def call(
        self, users: tf.Tensor, items: tf.Tensor, seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Logits of pairs.

        Args:
            users: int32 (n,).
            items: int32 (n,).
            seed: int32 (2,), of the dropout; None drops nothing.

        Returns:
            float32 (n,).
        """
        product = self._user_factors(users) * self._item_factors(items)
        x = tf.concat([self._user_inputs(users), self._item_inputs(items)], axis=1)
        for place, layer in enumerate(self._hidden):
            x = layer(x)
            if seed is not None and self._rate:
                mask = tf.random.experimental.stateless_fold_in(seed, place)
                x = tf.nn.experimental.stateless_dropout(x, self._rate, mask)
        return self._last(tf.concat([product, x], axis=1))[:, 0]


def _drawn(seeds: np.random.Generator) -> int:
    return int(seeds.integers(2**31))
