"""Language modelling: the text in parallel streams, cross-entropy and perplexity.

The training text is cut into `batch_size` streams of equal length. Each replica has its
own block of them. A step trains on the next `bptt` words of every stream; the layers'
states go on from step to step, without gradients, and start from zero with each epoch.
Perplexity is exp of the mean loss over all words of a split.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tem_studies.refusal import Refusal
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.examples import Examples, Share
from tem_studies.workloads.language_model import LanguageModel
from tem_studies.workloads.task import Task
from tem_studies.workloads.text_files import TextData
from tem_tf.replica_state import ReplicaState

# Streams and words of one forward pass of an evaluation. Our choice: states start from
# zero 32 times in a split, and the logits of a vocabulary of 28,869 take 111 MB.
EVALUATION_STREAMS = 32
EVALUATION_WINDOW = 30


class TextScore(NamedTuple):
    """Mean loss of a word, in nats, and its exponential."""

    loss: float
    perplexity: float


def text_score(loss: float) -> TextScore:
    """Names a mean loss; above 700 nats exp has no number."""
    return TextScore(loss, math.exp(loss) if loss < 700 else math.inf)


class TrainingText(Examples):
    """The training text and what each replica remembers of it.

    Args:
        words: int32 (n,).
        settings: `batch_size`, `bptt`, `seed`, `lstm_layers` and `lstm_units`.

    Attributes:
        examples: Words that an epoch predicts.
        windows: Steps of an epoch.

    Raises:
        Refusal: the text is too short for one step.
    """

    def __init__(self, words: np.ndarray, settings: Configuration) -> None:
        streams, window = settings.batch_size, settings.bptt
        length = len(words) // streams
        self.windows = (length - 1) // window
        if self.windows < 1:
            raise Refusal(
                "`batch_size` streams of the training text must have at least `bptt` + "
                f"1 words each. Received: batch_size={streams}, bptt={window} with "
                f"{len(words)} words. Pass a smaller one."
            )
        self.examples = self.windows * window * streams
        self._settings = settings
        self._streams = tf.constant(words[: length * streams].reshape(streams, length))
        self.carried = ReplicaState()

    def row_width(self, batch_size: int) -> int:
        del batch_size
        return 1  # Where the window starts, the same in all streams.

    def prepare(self, batch_size: int, replicas: int) -> None:
        shape = [batch_size // replicas, self._settings.lstm_units]
        for i in range(self._settings.lstm_layers):
            for kind in ("hidden", "cell"):
                self.carried.add(f"{kind}_{i}", tf.zeros(shape))

    def learn(
        self, model: keras.Model, rows: tf.Tensor, share: Share
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean loss of the next words of this replica's streams."""
        start, window = rows[0], self._settings.bptt
        size = self._streams.shape[0] // share.replicas
        first = share.replica * size
        stretch = tf.slice(self._streams, [first, start], [size, window + 1])
        goes_on = tf.cast(start > 0, tf.float32)  # else an epoch begins
        names = [
            (f"hidden_{i}", f"cell_{i}") for i in range(self._settings.lstm_layers)
        ]
        states = [
            tuple(self.carried.read(name) * goes_on for name in pair) for pair in names
        ]
        # Masks of their own on every replica: with Keras's they would be the same.
        seed = share.seed(self._settings.seed, share.replica)
        logits, states = model(stretch[:, :-1], states, seed)
        for pair, after in zip(names, states, strict=True):
            for name, value in zip(pair, after, strict=True):
                self.carried.assign(name, value)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(stretch[:, 1:], logits)
        return tf.reduce_mean(losses), tf.zeros([0])

    def score(self, *means: float) -> TextScore:
        return text_score(*means)


class HeldOutText(Examples):
    """A text to be measured on: every word but the first is predicted once.

    It is cut into streams that are read side by side; the result does not depend on the
    number of replicas.

    Args:
        words: int32 (n,), n >= 2.
        name: Of the split, for messages.
        most: Words that are predicted at most; None: all.

    Attributes:
        examples: n - 1, or `most`.
    """

    def __init__(self, words: np.ndarray, name: str, most: int | None = None) -> None:
        words = words if most is None else words[: most + 1]
        self.examples = len(words) - 1
        if self.examples < 1:
            raise Refusal(
                f"The {name} text must have at least two words. Received: {len(words)}."
            )
        streams = min(EVALUATION_STREAMS, self.examples)
        each = -(-self.examples // streams)
        length = each + -each % EVALUATION_WINDOW
        # Row i of each table is stream i; what is behind its end counts nothing.
        places = np.arange(streams)[:, np.newaxis] * each + np.arange(length)
        counts = (np.arange(length) < each) & (places < self.examples)
        places = np.minimum(places, self.examples - 1)
        self._inputs = tf.constant(words[places])
        self._targets = tf.constant(words[places + 1])
        self._weights = tf.constant(counts.astype(np.float32))

    def totals(self, model: keras.Model, share: Share) -> tf.Tensor:
        """Sum of the losses of this replica's streams."""
        streams, length = self._inputs.shape
        first, last = share.of(streams)
        states = model.start(last - first)
        known = states[0][0].shape[0]
        total = tf.zeros([1])
        for start in tf.range(0, length, EVALUATION_WINDOW):
            inputs, targets, weights = (
                table[first:last, start : start + EVALUATION_WINDOW]
                for table in (self._inputs, self._targets, self._weights)
            )
            # The layers' loops want the number of streams where the states have it.
            inputs = tf.ensure_shape(inputs, [known, EVALUATION_WINDOW])
            logits, states = model(inputs, states)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
            total += tf.reduce_sum(losses * weights)
        return total

    def score(self, *means: float) -> TextScore:
        return text_score(*means)


class TextTask(Task):
    """A language model and its text. See `Task`.

    Args:
        configuration: The run's settings.
        data: The text.
        replicas: Unused: every replica has as many streams as the others.
    """

    unit = "words"

    def __init__(
        self, configuration: Configuration, data: TextData, replicas: int = 1
    ) -> None:
        del replicas
        self._configuration = configuration
        self._vocabulary = len(data.words)
        self.train = TrainingText(data.train, configuration)
        most = configuration.evaluation_examples
        self.validation = HeldOutText(data.validation, "validation", most)
        self.test = HeldOutText(data.test, "test", most)
        self.steps_per_epoch = self.train.windows
        self._next = 0

    def new_model(self) -> LanguageModel:
        configuration = self._configuration
        return LanguageModel(
            self._vocabulary,
            configuration.lstm_units,
            configuration.lstm_layers,
            configuration.tied,
            configuration.dropout_rate,
            configuration.seed,
        )

    def take(self, steps: int) -> np.ndarray:
        windows = np.arange(self._next, self._next + steps) % self.steps_per_epoch
        self._next += steps
        rows = windows * self._configuration.bptt
        return rows.astype(np.int32)[:, np.newaxis]
