"""The TEM study's language model: embedding, LSTM layers, decoder, dropout between.

    x ← D(E[w])     x ← D(LSTM_i(x)), i = 1..n     logits = x Eᵀ + b

with E the embedding, which is the decoder's matrix too where they are tied, and D
dropout. Initial values are the study's: E and the decoder's matrix uniform in ±0.1, b
zero, weights and biases of the cells uniform in ±1/√units.

References:
    Sahu et al., NeurIPS 2021, arXiv 2108.00951, and its authors' code; Press and Wolf,
    EACL 2017, arXiv 1608.05859 (tied embeddings).
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

States = list[tuple[tf.Tensor, tf.Tensor]]


class LanguageModel(keras.Model):
    """Predicts each next word.

    Args:
        words: Size of the vocabulary.
        units: Width of the embedding and of every layer.
        depth: Number of LSTM layers.
        tied: Whether the decoder's matrix is the embedding.
        dropout: Float in [0, 1). Share of entries set to 0 in training.
        seed: Integer >= 0. The same seed draws the same initial weights.
    """

    def __init__(
        self,
        words: int,
        units: int = 650,
        depth: int = 3,
        tied: bool = True,
        dropout: float = 0.4,
        seed: int = 0,
    ) -> None:
        super().__init__(name="lstm")
        seeds = np.random.default_rng(np.random.SeedSequence(seed))

        def uniform(limit: float) -> keras.initializers.Initializer:
            return keras.initializers.RandomUniform(
                -limit, limit, int(seeds.integers(2**31))
            )

        self.units = units
        self._rate = dropout
        self._embedding = keras.layers.Embedding(
            words, units, embeddings_initializer=uniform(0.1), name="embedding"
        )
        self._embedding.build(None)
        self._cells = []
        limit = units**-0.5
        for i in range(depth):
            cell = keras.layers.LSTM(
                units,
                kernel_initializer=uniform(limit),
                recurrent_initializer=uniform(limit),
                bias_initializer=uniform(limit),
                unit_forget_bias=False,
                return_sequences=True,
                return_state=True,
                name=f"lstm_{i + 1}",
            )
            cell.build((None, None, units))
            self._cells.append(cell)
        self._decoder = None
        if not tied:
            self._decoder = self.add_weight(
                (words, units), uniform(0.1), name="decoder"
            )
        self._bias = self.add_weight((words,), "zeros", name="decoder_bias")
        self.built = True

    def call(
        self, words: tf.Tensor, states: States, seed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, States]:
        """Reads a stretch of each stream.

        Args:
            words: int32 (streams, length).
            states: For each layer (hidden, cell), float32 (streams, units).
            seed: int32 (2,), of the dropout; None drops nothing.

        Returns:
            Logits of the next words, float32 (streams, length, vocabulary), and the
            states after them.
        """
        x = self._dropped(self._embedding(words), seed, 0)
        after = []
        for i, (cell, state) in enumerate(zip(self._cells, states, strict=True)):
            x, *state = cell(x, initial_state=list(state))
            after.append(tuple(state))
            x = self._dropped(x, seed, i + 1)
        matrix = self._embedding.embeddings if self._decoder is None else self._decoder
        length = tf.shape(words)[1]
        flat = tf.reshape(x, [-1, self.units])
        logits = tf.matmul(flat, tf.convert_to_tensor(matrix), transpose_b=True)
        logits += self._bias
        return tf.reshape(logits, [-1, length, logits.shape[1]]), after

    def start(self, streams: tf.Tensor | int) -> States:
        """The states before the first word: zeros."""
        zeros = tf.zeros([streams, self.units])
        return [(zeros, zeros) for _ in self._cells]

    def _dropped(self, x: tf.Tensor, seed: tf.Tensor | None, place: int) -> tf.Tensor:
        if seed is None or not self._rate:
            return x
        seed = tf.random.experimental.stateless_fold_in(seed, place)
        return tf.nn.experimental.stateless_dropout(x, self._rate, seed)
