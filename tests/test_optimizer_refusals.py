"""What the optimizer refuses, each with its wording, before anything has happened."""

import functools
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tests.training import identity, make_strategy, thresholded

ROOT = pathlib.Path(__file__).parents[1]
SGD = keras.optimizers.SGD
SCALED = "SparsifiedOptimizer must be directly inside the LossScaleOptimizer"


def test_an_inner_optimizer_in_two_wrappers():
    inner = SGD(name="shared")
    wrapper = identity(inner)
    message = "must not be in another wrapper.*inner_optimizer='shared'"
    for again in (inner, wrapper):
        with pytest.raises(ValueError, match=message):
            identity(again)


# Not a class: Keras 3.16 makes an instance of it.
@pytest.mark.parametrize("inner", [None, "typo", 3])
def test_an_inner_optimizer_that_is_none(inner):
    message = (
        "`inner_optimizer` must be a Keras|Could not interpret|locate class 'typo'"
    )
    with pytest.raises((ValueError, TypeError), match=message):
        identity(inner)


def test_a_refused_argument_leaves_the_inner_optimizer_free():
    inner = SGD()
    with pytest.raises(ValueError, match="`dense_below`"):
        tem_tf.SparsifiedOptimizer(inner, tem_tf.Identity(), dense_below=-1)
    identity(inner)


def test_a_loss_scale_optimizer_inside():
    with pytest.raises(ValueError, match=SCALED):
        identity(keras.optimizers.LossScaleOptimizer(SGD()))


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="it came with Keras 3.15"
)
def test_an_optimizer_made_of_several():
    several = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(SGD()))
    message = "must not be made of other optimizers, as a MultiOptimizer is"
    with pytest.raises(ValueError, match=message):
        identity(several)
    several = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(identity(SGD()))
    )
    scaled = keras.optimizers.LossScaleOptimizer(several)
    with pytest.raises(ValueError, match=SCALED):
        scaled.apply([tf.ones([1])], [keras.Variable([0.0])])


def test_gradient_accumulation_under_a_strategy():
    with (
        make_strategy(2).scope(),
        pytest.raises(
            ValueError,
            match="`gradient_accumulation_steps` of the inner optimizer cannot be used "
            "under a strategy .*Received: 4",
        ),
    ):
        tem_tf.SparsifiedOptimizer(
            SGD(gradient_accumulation_steps=4), tem_tf.HardThreshold(0.1)
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"compressor": None}, "`compressor` must be a tem_tf compressor .*=None"),
        ({"compressor": "topk"}, "`compressor` must be .*compressor='topk'"),
        ({"compressor": tem_tf.HardThreshold}, "`compressor` must be .*<class"),
        ({"memory": "none"}, "`memory` must be \"auto\", None or .*memory='none'"),
        ({"memory": tem_tf.ErrorFeedback}, "`memory` must be .*<class"),
        ({"dense_below": -1}, "`dense_below` must be an integer >= 0.*=-1"),
        ({"dense_below": 1.5}, "`dense_below` must be an integer >= 0.*=1.5"),
        ({"dense_below": True}, "`dense_below` must be an integer >= 0.*=True"),
        ({"warmup_steps": -1}, "`warmup_steps` must be an integer >= 0.*=-1"),
        ({"warmup_steps": "10"}, "`warmup_steps` must be an integer >= 0.*='10'"),
        ({"warmup_steps": None}, "`warmup_steps` must be an integer >= 0.*=None"),
        (
            {"value_dtype": "int16"},
            "`value_dtype` must be one of float32, .*, int2, sign.*='int16'",
        ),
        ({"value_dtype": None}, "`value_dtype` must be one of float32, .*=None"),
        ({"value_dtype": tf.float16}, "`value_dtype` must be one of .*=tf.float16"),
        (
            {"value_dtype": "float16", "compressor": tem_tf.Identity()},
            '`value_dtype` must be "float32" with a compressor that sends everything',
        ),
        (
            {"nonfinite": "omit"},
            '`nonfinite` must be "raise", "zero" or "skip"',
        ),
        ({"nonfinite": None}, '`nonfinite` must be "raise", "zero" or "skip".*=None'),
        ({"local_clipnorm": 0}, "`local_clipnorm` must be a finite number > 0.*=0"),
        ({"local_clipnorm": -1.0}, "`local_clipnorm` must be .*=-1.0"),
        ({"local_clipnorm": np.nan}, "`local_clipnorm` must be .*=nan"),
        ({"local_clipnorm": np.inf}, "`local_clipnorm` must be .*=inf"),
        ({"local_clipnorm": "1"}, "`local_clipnorm` must be .*='1'"),
        ({"local_clipnorm": True}, "`local_clipnorm` must be .*=True"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        tem_tf.SparsifiedOptimizer(
            SGD(), **{"compressor": tem_tf.HardThreshold(0.1), **arguments}
        )


def test_a_summary_before_the_first_step():
    with pytest.raises(ValueError, match="needs an optimizer that has been built"):
        thresholded().communication_summary()


def test_xla_without_one_is_left_to_keras():
    optimizer, weights = identity(SGD(1.0)), keras.Variable([0.0])
    optimizer.build([weights])
    tf.function(lambda: optimizer.apply([tf.ones([1])]), jit_compile=True)()
    assert weights.numpy() == [-1.0]


def import_plugin(before="", **environment):
    """Imports tem_tf in a new process, after `before`.

    Returns:
        The last line of what Python says.
    """
    done = subprocess.run(
        [sys.executable, "-c", before + "import tem_tf"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("value", ["1", "True"])
def test_legacy_keras(value):
    message = import_plugin(TF_USE_LEGACY_KERAS=value)
    assert message == (
        "ImportError: tem_tf needs Keras 3. Received: TF_USE_LEGACY_KERAS="
        f"{value}. Unset it."
    )


def test_another_backend_in_the_environment():
    """Whether it is installed or not: Keras would say that there is no jax."""
    message = import_plugin(KERAS_BACKEND="jax")
    assert message == (
        "ImportError: tem_tf needs Keras's TensorFlow backend. Received: "
        "KERAS_BACKEND=jax. Set KERAS_BACKEND=tensorflow."
    )


def test_another_backend_in_use():
    """As Keras's configuration file may ask for; a stand-in, for none is installed."""
    keras_with_jax = (
        "import sys, types\n"
        "keras = sys.modules['keras'] = types.ModuleType('keras')\n"
        "keras.backend = types.SimpleNamespace(backend=lambda: 'jax')\n"
    )
    assert import_plugin(keras_with_jax, KERAS_BACKEND="") == (
        "ImportError: tem_tf needs Keras's TensorFlow backend. Received: jax. Set "
        "KERAS_BACKEND=tensorflow."
    )


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("select", "derive from tem_tf.Sparsifier and implement `rule`"),
        ("approximate", "it follows from `compress`"),
        ("aggregation", "`compress` returns tem_tf.Gather or tem_tf.Sum"),
    ],
)
@pytest.mark.parametrize("base", [tem_tf.Compressor, tem_tf.TopK])
def test_a_compressor_of_before_is_told_what_its_parts_are_called_now(
    base, name, instead
):
    message = (
        f"`{name}` of a compressor is no more since tem_tf 0.2: {instead}. "
        f"Received: Own.{name}"
    )
    with pytest.raises(TypeError) as error:
        type("Own", (base,), {name: None})
    assert str(error.value) == message


class _OldCompensate(tem_tf.ErrorFeedback):
    def compensate(self, state, gradient):
        return gradient + state["residual"]


class _OldUpdate(tem_tf.Memory):
    def update(self, state, corrected, sent):
        return {"residual": corrected - sent}


class _OldApply(tem_tf.EF21):
    def apply(self, state, aggregate):
        return aggregate, state


@pytest.mark.parametrize(
    ("memory", "says"),
    [
        (
            _OldCompensate(),
            "`compensate` of a memory must take (state, gradient, step, segments), the "
            "last two since tem_tf 0.2. Received: _OldCompensate.compensate(state, "
            "gradient)",
        ),
        (
            _OldUpdate(),
            "`update` of a memory must take (state, corrected, own, step, segments), "
            "the last two since tem_tf 0.2. Received: _OldUpdate.update(state, "
            "corrected, sent)",
        ),
        (
            _OldApply(),
            "`apply` of a memory must take (state, total, step, segments), the last "
            "two since tem_tf 0.2. Received: _OldApply.apply(state, aggregate)",
        ),
    ],
    ids=["compensate", "update", "apply"],
)
def test_a_memory_of_before_is_told_what_its_methods_take_now(memory, says):
    for make in (thresholded, functools.partial(tem_tf.Aggregator, tem_tf.TopK(k=1))):
        with pytest.raises(ValueError) as error:
            make(memory=memory)
        assert str(error.value) == says


class _TakesAny(tem_tf.ErrorFeedback):
    def compensate(self, *arguments):
        return super().compensate(*arguments)

    def update(self, state, *others):
        return super().update(state, *others)


def test_a_memory_that_passes_all_on_is_no_memory_of_before():
    weights = keras.Variable([0.0, 0.0])
    thresholded(memory=_TakesAny()).apply([tf.constant([0.4, 1.0])], [weights])
    np.testing.assert_array_equal(weights, [0.0, -1.0])


def test_a_wrapped_optimizer_used_by_itself():
    inner = SGD()
    thresholded_inner = tem_tf.SparsifiedOptimizer(inner, tem_tf.TopK(density=0.5))
    assert thresholded_inner.inner_optimizer is inner
    with pytest.raises(ValueError, match="belongs to its SparsifiedOptimizer"):
        inner.apply([tf.ones([2])], [keras.Variable([1.0, 2.0])])


def test_gradients_divided_by_replicas_that_is_no_bool():
    with pytest.raises(ValueError, match="`gradients_divided_by_replicas` must be"):
        thresholded(gradients_divided_by_replicas="no")


def test_exact_payload_that_is_no_bool():
    with pytest.raises(ValueError, match="`exact_payload` must be True or False"):
        thresholded(exact_payload=1)


@pytest.mark.parametrize("seed", [-1, 2**31, 0.5, True])
def test_rounding_seed_that_is_none(seed):
    with pytest.raises(ValueError, match="`rounding_seed` must be an integer in"):
        thresholded(rounding_seed=seed, value_dtype="int4")


@pytest.mark.parametrize("value_dtype", ["float32", "bfloat16", "sign"])
def test_rounding_seed_where_nothing_is_drawn(value_dtype):
    with pytest.raises(ValueError, match="unless `value_dtype` is one of int8, int4"):
        thresholded(rounding_seed=0, value_dtype=value_dtype)


@pytest.mark.filterwarnings("default:Adam's variance is wrong:UserWarning")
def test_what_loses_quality_is_said_and_nothing_else(recwarn):
    adam, sgd = keras.optimizers.AdamW, keras.optimizers.SGD
    tem_tf.SparsifiedOptimizer(adam(), tem_tf.Identity())
    tem_tf.SparsifiedOptimizer(sgd(), tem_tf.TopK(0.1))
    tem_tf.CompressedAdamW(freeze_step=3)
    tem_tf.LocalUpdates(adam(), compressor=tem_tf.TopK(0.1))
    tem_tf.SparsifiedOptimizer(adam(), tem_tf.AllEntries(), value_dtype="int2")
    assert not recwarn.list
    with pytest.warns(UserWarning, match="see docs/adamw.md"):
        tem_tf.SparsifiedOptimizer(adam(), tem_tf.TopK(0.1))
    with pytest.warns(UserWarning, match="see docs/adamw.md"):
        tem_tf.SparsifiedOptimizer(adam(), tem_tf.AllEntries(), value_dtype="sign")
