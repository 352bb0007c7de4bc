"""Settings in words: what tells two of them apart, and what must not."""

import functools
import warnings

import keras
import numpy as np
import pytest

import tem_tf
from tem_tf.settings import settings_of, text_of
from tests.compressor_cases import COMPRESSORS


class Unsaved(keras.optimizers.schedules.LearningRateSchedule):
    """Has no `get_config`."""

    def __call__(self, step):
        return 0.1


def rate():
    return 0.1


TEXTS = {
    "None": None,
    "True": np.True_,
    "3": np.int64(3),
    "0.5": np.float32(0.5),
    "'a'": "a",
    "[1, 2.5, 'b']": (1, 2.5, "b"),
    "[[1], []]": [np.array([1]), ()],
    "{'a': 1}": {"a": 1},
    "rate": rate,
    "partial": functools.partial(rate),
    "object": object(),
    "int": int,
    "TopK(density=0.5, k=None, scope='layer', per_block=None, block=4096)": tem_tf.TopK(
        0.5
    ),
    "HardThreshold(threshold=Ramp(start=2.0, end=1.0, steps=3))": tem_tf.HardThreshold(
        tem_tf.Ramp(2, 1, 3)
    ),
    "TopKSchedule(counts=[1, 2])": tem_tf.TopKSchedule([1, 2]),
    "MomentumCorrection(momentum=0.5, masking=True)": tem_tf.MomentumCorrection(
        np.float64(0.5)
    ),
    "Unsaved()": Unsaved(),
}


@pytest.mark.parametrize(("text", "value"), TEXTS.items(), ids=TEXTS)
def test_a_value_in_words(text, value):
    assert text_of(value) == text


def test_all_compressors_differ():
    assert len({text_of(c) for c in COMPRESSORS.values()}) == len(COMPRESSORS)


def test_an_optimizer_is_told_by_its_class_and_configuration():
    settings = settings_of(keras.optimizers.Adam(0.5, beta_1=0.25, name="another"))
    assert settings["inner_optimizer"] == "Adam"
    assert settings["inner_optimizer.learning_rate"] == "0.5"
    assert settings["inner_optimizer.beta_1"] == "0.25"
    assert settings == settings_of(keras.optimizers.Adam(0.5, beta_1=0.25))


def test_a_schedule_is_told_by_its_arguments():
    cosine = keras.optimizers.schedules.CosineDecay(0.5, 10)
    text = settings_of(keras.optimizers.SGD(cosine))["inner_optimizer.learning_rate"]
    assert text.startswith("CosineDecay(initial_learning_rate=0.5, decay_steps=10, ")


@pytest.mark.parametrize(
    ("learning_rate", "text"), [(rate, "rate"), (lambda: 0.1, "<lambda>")]
)
def test_functions_are_told_by_their_names(learning_rate, text):
    """Without the warning that a lambda cannot be loaded safely."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settings = settings_of(keras.optimizers.SGD(learning_rate))
    assert settings["inner_optimizer.learning_rate"] == text


def test_what_cannot_be_saved_is_told_by_its_class_and_trains():
    inner = keras.optimizers.SGD(Unsaved())
    assert settings_of(inner) == {"inner_optimizer": "SGD"}
    weights = keras.Variable([1.0])
    optimizer = tem_tf.SparsifiedOptimizer(inner, tem_tf.TopK(k=1))
    optimizer.apply([np.float32([1])], [weights])
    np.testing.assert_allclose(weights.numpy(), [0.9], rtol=1e-6)
