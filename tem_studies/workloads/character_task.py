"""Language modelling of characters: random windows of a text, and cross-entropy.

A step trains on `batch_size` windows of `context` characters and the one after each.
Where they start is drawn by the seed and the step, for all replicas together, and each
takes its own part. The loss is the mean over characters, in nats.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tem_studies.refusal import Refusal
from tem_studies.workloads.character_files import CharacterData
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.examples import Examples, Share
from tem_studies.workloads.task import Task
from tem_studies.workloads.text_sample import sample
from tem_studies.workloads.transformer import Transformer

# Windows of one forward pass of an evaluation. Our choice: with the default network 32
# to 256 are equally fast.
EVALUATION_WINDOWS = 64


class Loss(NamedTuple):
    """Mean loss of a character, in nats."""

    loss: float


class TrainingCharacters(Examples):
    """The training text.

    Args:
        characters: int32 (n,).
        settings: `context` and `seed`.

    Attributes:
        examples: Characters that can be predicted.

    Raises:
        Refusal: the text is too short for one window.
    """

    def __init__(self, characters: np.ndarray, settings: Configuration) -> None:
        self.examples = len(characters) - 1
        self._context = settings.context
        self._seed = settings.seed
        if self.examples < self._context:
            raise Refusal(
                "The training text must have more than `context` characters. Received: "
                f"context={self._context} with {len(characters)} characters."
            )
        self._text = tf.constant(characters)

    def learn(
        self, model: keras.Model, rows: tf.Tensor, share: Share
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean loss of the characters of this replica's windows.

        Args:
            model: The network.
            rows: int32 (batch_size,), where windows start.
            share: Which replica this is.
        """
        first, last = share.of(rows.shape[0])
        places = rows[first:last, tf.newaxis] + tf.range(self._context + 1)
        windows = tf.gather(self._text, places)
        # Masks of their own on every replica: with Keras's they would be the same.
        seed = share.seed(self._seed, share.replica)
        logits = model(windows[:, :-1], seed)
        return tf.reduce_mean(_cross_entropy(windows[:, 1:], logits)), tf.zeros([0])

    def score(self, *means: float) -> Loss:
        return Loss(*means)


class HeldOutCharacters(Examples):
    """A text to be measured on: every character but the first is predicted once.

    It is cut into windows side by side, so that the first character of each window but
    the first is predicted from those of the window before alone.

    Args:
        characters: int32 (n,), n >= 2.
        context: Characters of a window.

    Attributes:
        examples: n - 1.
    """

    def __init__(self, characters: np.ndarray, context: int) -> None:
        self.examples = len(characters) - 1
        places = np.arange(self.examples + -self.examples % context)
        # What is behind the end of the text counts nothing.
        counts = (places < self.examples).astype(np.float32)
        places = np.minimum(places, self.examples - 1)
        self._inputs, self._targets, self._weights = (
            tf.constant(table.reshape(-1, context))
            for table in (characters[places], characters[places + 1], counts)
        )

    def totals(self, model: keras.Model, share: Share) -> tf.Tensor:
        """Sum of the losses of this replica's windows."""
        first, last = share.of(self._inputs.shape[0])
        total = tf.zeros([1])
        for start in tf.range(first, last, EVALUATION_WINDOWS):
            stop = tf.minimum(start + EVALUATION_WINDOWS, last)
            logits = model(self._inputs[start:stop])
            losses = _cross_entropy(self._targets[start:stop], logits)
            total += tf.reduce_sum(losses * self._weights[start:stop])
        return total

    def score(self, *means: float) -> Loss:
        return Loss(*means)


class CharacterTask(Task):
    """A transformer and its text. See `Task`.

    Args:
        configuration: The run's settings.
        data: The text.
        replicas: Unused: every batch is shared out alike.

    Raises:
        Refusal: the text is too short, or lacks a character of `prompt`.
    """

    unit = "characters"
    test = None

    def __init__(
        self, configuration: Configuration, data: CharacterData, replicas: int = 1
    ) -> None:
        del replicas
        self._configuration = configuration
        self._characters = data.characters
        self._prompt = self._numbers(configuration.prompt)
        self.train = TrainingCharacters(data.train, configuration)
        most = configuration.evaluation_examples
        held_out = data.validation if most is None else data.validation[: most + 1]
        self.validation = HeldOutCharacters(held_out, configuration.context)
        read_in_a_step = configuration.batch_size * configuration.context
        self.steps_per_epoch = max(1, self.train.examples // read_in_a_step)
        self._next = 0

    def new_model(self) -> Transformer:
        configuration = self._configuration
        return Transformer(
            len(self._characters),
            configuration.context,
            configuration.gpt_layers,
            configuration.gpt_heads,
            configuration.gpt_features,
            configuration.dropout_rate,
            configuration.seed,
        )

    def take(self, steps: int) -> np.ndarray:
        places = self.train.examples - self._configuration.context + 1
        first, self._next = self._next, self._next + steps
        # Of each step a generator of its own: whoever goes on draws the same.
        rows = [
            np.random.default_rng((self._configuration.seed, step)).integers(
                places, size=self._configuration.batch_size, dtype=np.int32
            )
            for step in range(first, self._next)
        ]
        return np.stack(rows)

    def skip(self, steps: int) -> None:
        self._next += steps

    def sample(self, model: keras.Model) -> str:
        """The prompt, and `sample_characters` that follow it."""
        configuration = self._configuration
        numbers = sample(
            model, self._prompt, configuration.sample_characters, configuration.seed
        )
        return "".join(self._characters[number] for number in numbers)

    def _numbers(self, prompt: str) -> list[int]:
        """Those of a prompt's characters."""
        strange = sorted(set(prompt) - set(self._characters))
        if strange:
            raise Refusal(
                "`prompt` must consist of characters of the text. Received: "
                f"{strange[0]!r} in prompt={prompt!r}."
            )
        return [self._characters.index(character) for character in prompt]


def _cross_entropy(characters: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(characters, logits)
