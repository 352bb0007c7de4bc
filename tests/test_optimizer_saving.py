"""Saved, loaded and exported models: the optimizer's variables come back exactly.

Residuals are not part of a saved model; loading one says so.
"""

import json
import os
import pathlib
import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tests.training import (
    X,
    assert_same,
    fit,
    identity,
    make_model,
    make_strategy,
    values,
)

ROOT = pathlib.Path(__file__).parents[1]
LOST = "A saved model holds no residuals"
# Keras 3.15 with NumPy 2: its conversion of variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


def sparsified():
    return tem_tf.SparsifiedOptimizer(
        keras.optimizers.Adam(0.1, clipnorm=0.5), tem_tf.HardThreshold(0.1)
    )


def trained(optimizer=sparsified, strategy=None):
    return fit(make_model(optimizer, strategy, run_eagerly=strategy is None))


@pytest.fixture(scope="module")
def model():
    """Trained for four steps. Not to be changed."""
    return trained()


def test_a_trained_model_comes_back(model, tmp_path):
    model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match=LOST):
        loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, tem_tf.SparsifiedOptimizer)
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    assert loaded.optimizer.iterations == 4
    assert_same(loaded, model)
    assert loaded.optimizer.communication_summary()["residual_norm"] == 0


def test_a_loaded_model_goes_on_as_keras_would(tmp_path):
    """Nothing but residuals is lost, so without any nothing is."""

    def interrupted(optimizer):
        trained(optimizer).save(tmp_path / "model.keras")
        return fit(keras.models.load_model(tmp_path / "model.keras"))

    uninterrupted = fit(trained(lambda: keras.optimizers.Adam(0.1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # No residuals, no warning.
        resumed = interrupted(lambda: identity(keras.optimizers.Adam(0.1)))
    assert_same(resumed, uninterrupted)


def test_a_model_that_was_never_trained_comes_back(tmp_path):
    model = make_model(sparsified)
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # Nothing was held back.
        warnings.filterwarnings("ignore", "Adam's variance is wrong")
        loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(loaded, model)


@pytest.mark.slow
def test_a_model_comes_back_under_a_strategy(tmp_path):
    strategy = make_strategy(2)
    model = trained(sparsified, strategy)
    model.save(tmp_path / "model.keras")
    with strategy.scope(), pytest.warns(UserWarning, match=LOST):
        loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(loaded, model)
    fit(loaded)
    assert loaded.optimizer.communication_summary()["replicas"] == 2
    with pytest.warns(UserWarning, match=LOST):  # A run may go on with fewer.
        alone = keras.models.load_model(tmp_path / "model.keras")
    assert_same(alone, model)


def test_weights_come_back_with_the_optimizers_variables(model, tmp_path):
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = make_model(sparsified)
    loaded.optimizer.build(loaded.trainable_variables)
    with pytest.warns(UserWarning, match=LOST):
        loaded.load_weights(tmp_path / "model.weights.h5")
    assert_same(loaded, model)


@pytest.mark.parametrize("built", [True, False], ids=["built", "unbuilt"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_checkpoint_brings_back_a_custom_loop(replicas, built, tmp_path):
    strategy = make_strategy(replicas)
    gradients = np.random.default_rng(0).normal(size=(3, 4))
    gradients = tf.constant(gradients, tf.float32)

    class Loop:
        def __init__(self):
            with strategy.scope():
                self.weights = tf.Variable(tf.zeros([4]))
                self.optimizer = identity(keras.optimizers.Adam(0.1))
            self.checkpoint = tf.train.Checkpoint(
                model=self.weights, optimizer=self.optimizer
            )

        def build(self):
            with strategy.scope():
                self.optimizer.build([self.weights])

        def step(self, gradient):
            strategy.run(
                lambda g: self.optimizer.apply([g], [self.weights]), [gradient]
            )

    loop, resumed = Loop(), Loop()
    loop.build()
    loop.step(gradients[0])
    loop.step(gradients[1])
    path = loop.checkpoint.save(tmp_path / "checkpoint")
    if built:
        resumed.build()
    status = resumed.checkpoint.restore(path)
    if not built:
        resumed.build()
    status.assert_consumed()
    assert resumed.optimizer.iterations == 2
    loop.step(gradients[2])
    resumed.step(gradients[2])
    for value, other in zip(
        values([resumed.weights, *resumed.optimizer.variables]),
        values([loop.weights, *loop.optimizer.variables]),
        strict=True,
    ):
        np.testing.assert_array_equal(value, other)


def test_a_checkpoint_holds_a_compiled_model(model, tmp_path):
    path = tf.train.Checkpoint(model=model).save(tmp_path / "checkpoint")
    loaded = make_model(sparsified)
    loaded.optimizer.build(loaded.trainable_variables)
    tf.train.Checkpoint(model=loaded).restore(path).assert_consumed()
    assert_same(loaded, model)


WITHOUT_THE_PLUGIN = """
    import json, sys

    sys.modules["tem_tf"] = None  # Importing it fails.
    import keras
    import numpy as np
    import tensorflow as tf

    inputs = np.load("inputs.npy")
    exported = tf.saved_model.load("exported")
    loaded = keras.models.load_model("model.keras", compile=False)
    try:
        keras.models.load_model("model.keras")
        message = ""
    except TypeError as error:
        message = str(error)
    answer = {
        "exported": exported.serve(inputs).numpy().tolist(),
        "loaded": loaded(inputs).numpy().tolist(),
        "message": message,
        "modules": [name for name in sys.modules if name.startswith("tem_tf.")],
    }
    print(json.dumps(answer))
"""


@pytest.mark.slow
def test_a_model_is_used_where_the_plugin_is_not_installed(model, tmp_path):
    np.save(tmp_path / "inputs.npy", X)
    model.save(tmp_path / "model.keras")
    model.export(tmp_path / "exported", verbose=False)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WITHOUT_THE_PLUGIN)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    expected = model(X).numpy()
    np.testing.assert_array_equal(np.float32(answer["loaded"]), expected)
    # The exported graph may be optimised as a whole.
    np.testing.assert_allclose(answer["exported"], expected, rtol=1e-6)
    assert "SparsifiedOptimizer" in answer["message"]  # With the optimizer it cannot.
    assert answer["modules"] == []
