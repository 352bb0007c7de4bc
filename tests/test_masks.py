"""Laws of masks: what a pruned network exchanges is what lives of it, and no more."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf import native
from tem_tf.masks import Masks
from tests.compressor_cases import COMPRESSORS
from tests.steps import apply_gradients, dyadic
from tests.training import make_strategy

RNG = np.random.default_rng(5)
SIZE = 60  # The first third of which is the variable "a", the rest "b".
MASKS = {"a": RNG.random(SIZE // 3) < 0.3, "b": RNG.random(2 * SIZE // 3) < 0.1}
LIVE = np.concatenate([MASKS["a"], MASKS["b"]])


@pytest.fixture(params=["operations", "native"])
def path(request, monkeypatch):
    """By TensorFlow's operations and by our kernels."""
    monkeypatch.setenv(
        "TEM_TF_NATIVE", "0" if request.param == "operations" else "built"
    )
    if request.param == "native" and native.library() is None:
        pytest.skip(f"native kernels: {native.status().reason}")
    return request.param


def train(gradients, compressor, masks, replicas=2, **options):
    return apply_gradients(
        make_strategy(replicas), gradients, compressor, False, masks=masks, **options
    )


@pytest.mark.parametrize("memory", ["auto", None, tem_tf.DecayingErrorFeedback(0.5)])
@pytest.mark.parametrize(
    "compressor",
    [tem_tf.HardThreshold(0.8), tem_tf.TopK(0.1, scope="model"), tem_tf.Identity()],
    ids=["threshold", "topk", "identity"],
)
@pytest.mark.usefixtures("path")
def test_sums_are_those_of_gradients_times_the_mask(compressor, memory):
    """Of Top-k where both send as many: a tenth of the live entries."""
    gradients = RNG.normal(size=(5, 2, SIZE)) * LIVE
    masked, optimizer = train(gradients, compressor, MASKS, memory=memory)
    if isinstance(compressor, tem_tf.TopK):
        kept = round(0.1 * LIVE.sum())
        compressor = tem_tf.TopK(kept / SIZE, scope="model")
    whole, other = train(gradients, compressor, None, memory=memory)
    np.testing.assert_array_equal(masked, whole)
    found, expected = (o.communication_summary() for o in (optimizer, other))
    assert found["entries_sent"] == (
        10 * LIVE.sum()
        if isinstance(compressor, tem_tf.Identity)
        else expected["entries_sent"]
    )
    assert found["dense_bytes"] == 10 * 4 * LIVE.sum()
    assert expected["dense_bytes"] == 10 * 4 * SIZE


@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
def test_what_does_not_live_never_moves(compressor):
    weights, optimizer = train(dyadic(3, 2, SIZE), compressor, MASKS)
    np.testing.assert_array_equal(weights[..., ~LIVE], 0)
    sizes = {s.name: s.size for s in optimizer.aggregator._layout(["a", "b"]).segments}
    assert sizes == {"a": MASKS["a"].sum(), "b": MASKS["b"].sum()}
    sends = compressor != COMPRESSORS["hard_threshold_sends_none"]
    assert np.any(weights[..., LIVE]) == sends


def test_every_step_may_be_dense_within_the_mask():
    """In warm-up, below `dense_below`, and with nothing to compress."""
    gradients = dyadic(2, 2, SIZE)
    expected = -np.cumsum((gradients * LIVE).sum(axis=1), axis=0)
    for compressor, options in (
        (tem_tf.Identity(), {}),
        (tem_tf.TopK(0.1), {"warmup_steps": 2}),
        (tem_tf.TopK(0.1), {"dense_below": SIZE}),
    ):
        weights, optimizer = train(gradients, compressor, MASKS, **options)
        for replica in range(2):
            np.testing.assert_array_equal(weights[:, replica], expected)
        assert optimizer.communication_summary()["entries_sent"] == 4 * LIVE.sum()


def test_fewer_live_entries_than_dense_below_are_sent_whole():
    _, optimizer = train(dyadic(2, 1, SIZE), tem_tf.TopK(0.1), MASKS, 1, dense_below=10)
    layout = optimizer.aggregator._layout(["a", "b"])
    assert {s.name for s in layout.small} == {
        name for name, mask in MASKS.items() if mask.sum() < 10
    }


def test_rows_of_an_embedding_are_masked():
    mask = np.array([[1, 0], [0, 1], [0, 0], [1, 1]])
    weights = keras.Variable(tf.zeros([4, 2]), name="rows")
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(1.0), tem_tf.HardThreshold(0.5), masks={"rows": mask}
    )
    slices = tf.IndexedSlices(
        tf.ones([3, 2]), tf.constant([3, 0, 3]), tf.constant([4, 2])
    )
    optimizer.apply([slices], [weights])
    np.testing.assert_array_equal(weights, -mask * [[1, 1], [0, 0], [0, 0], [2, 2]])


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes_are_masked(dtype):
    mask = np.array([[1, 0], [0, 1]])
    weights = keras.Variable(tf.zeros([2, 2], dtype), name="w", dtype=dtype)
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(1.0), tem_tf.HardThreshold(0.5), masks={"w": mask}
    )
    optimizer.apply([tf.ones([2, 2], dtype)], [weights])
    np.testing.assert_array_equal(weights, -mask)
    size = {"float16": 4, "float64": 8}[dtype]
    assert optimizer.communication_summary()["dense_bytes"] == 2 * size


@pytest.mark.parametrize("lives", [0, 1])
def test_a_variable_may_be_dead_or_whole(lives):
    masks = {"a": np.full(SIZE // 3, lives), "b": MASKS["b"]}
    weights, optimizer = train(dyadic(3, 2, SIZE), tem_tf.HardThreshold(0.1), masks)
    assert np.any(weights[..., : SIZE // 3]) == bool(lives)
    assert np.all(np.isfinite(weights))
    by_variable = optimizer.communication_by_variable()
    assert by_variable["a"]["entries"] == lives * 2 * SIZE // 3  # Of two replicas.


def test_local_updates_leave_what_does_not_live_as_it_was():
    masks = {"w": np.array([1.0, 0.0, 1.0])}
    optimizer = tem_tf.LocalUpdates(
        keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0), 2, masks=masks
    )
    weights = keras.Variable([5.0, 6.0, 7.0], name="w")
    for _ in range(2):
        optimizer.apply([tf.ones([3])], [weights])
    np.testing.assert_array_equal(weights, [3, 6, 5])


def test_compressed_adamw_takes_masks():
    masks = {"w": np.array([1.0, 0.0, 1.0])}
    optimizer = tem_tf.CompressedAdamW(
        0.1, weight_decay=0.0, freeze_step=2, masks=masks
    )
    weights = keras.Variable([5.0, 6.0, 7.0], name="w")
    for _ in range(4):
        optimizer.apply([tf.ones([3])], [weights])
    assert weights.numpy()[1] == 6 and np.all(weights.numpy()[[0, 2]] < [5, 7])


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ([1, 0], "`masks` must be a dict"),
        ({"a": [0.5, 1.0]}, "arrays of zeros and ones"),
        ({"a": ["yes"]}, "arrays of zeros and ones"),
        ({"a": None}, "arrays of zeros and ones"),
        ({1: [0, 1]}, "dict from variables' paths"),
        ({"a": {"shape": [3], "bits": "?"}}, "arrays of zeros and ones"),
        ({"a": [[1], [1, 0]]}, "arrays of zeros and ones"),
        (
            {"a": Masks({"a": [1, 0]}).to_config()["a"] | {"shape": [100]}},
            "arrays of zeros and ones",
        ),
    ],
)
def test_what_is_no_mask_is_refused(masks, words):
    with pytest.raises(ValueError, match=words):
        tem_tf.SparsifiedOptimizer("sgd", tem_tf.TopK(0.1), masks=masks)


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ({"c": np.zeros(3)}, "must name trained variables: a, b. Received: 'c'"),
        ({"a": np.zeros(3)}, r"`masks\['a'\]` must have the variable's shape \(20,\)"),
        ({"c": np.ones(3)}, "must name trained variables"),
    ],
)
def test_masks_of_no_variable_are_refused_before_a_step(masks, words):
    with pytest.raises(ValueError, match=words):
        train(dyadic(1, 1, SIZE), tem_tf.TopK(0.1), masks, replicas=1)


@pytest.mark.parametrize(
    "make",
    [
        lambda masks: tem_tf.SparsifiedOptimizer("sgd", tem_tf.TopK(0.1), masks=masks),
        lambda masks: tem_tf.LocalUpdates("sgd", masks=masks),
        lambda masks: tem_tf.CompressedAdamW(freeze_step=2, masks=masks),
    ],
)
def test_masks_are_saved_with_the_optimizer(make):
    masks = {"a": MASKS["a"].reshape(4, 5), "b": np.ones(3)}
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(make(masks))))
    loaded = keras.saving.deserialize_keras_object(saved)
    assert repr(loaded.aggregator.options.masks) == repr(Masks(masks))
    assert make(None).get_config()["masks"] is None
    assert make({"b": np.ones(3)}).get_config()["masks"] is None


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.filterwarnings("ignore:A saved model holds no residuals")
@pytest.mark.parametrize("kind", [keras.Sequential, keras.Model])
def test_a_model_with_masks_is_saved_loaded_and_trained(tmp_path, kind):
    layer = keras.layers.Dense(2, name="dense")
    model = keras.Sequential([keras.Input([3]), layer])
    if kind is keras.Model:
        inputs = keras.Input([3])
        model = keras.Model(inputs, layer(inputs))
    mask = np.array([[1, 0], [0, 1], [0, 0]])
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(0.1), tem_tf.TopK(0.5), masks={layer.kernel.path: mask}
    )
    model.compile(optimizer, "mse")
    examples = np.ones((4, 3)), np.ones((4, 2))
    model.fit(*examples, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    before = loaded.layers[-1].kernel.numpy()
    loaded.fit(*examples, verbose=0)
    moved = loaded.layers[-1].kernel.numpy() != before
    assert moved.any() and not moved[mask == 0].any()


def test_a_path_that_may_mean_two_variables_is_refused():
    optimizer = tem_tf.SparsifiedOptimizer(
        "sgd", tem_tf.TopK(0.1), masks={"kernel": [1, 0]}
    )
    variables = [keras.Variable([0.0, 0.0], name="kernel") for _ in range(2)]
    for name, variable in zip("ab", variables, strict=True):
        variable._path = f"{name}/kernel"
    with pytest.raises(ValueError, match="must name trained variables: a/kernel, b/k"):
        optimizer.build(variables)


def test_masks_cannot_be_set_later():
    optimizer = tem_tf.SparsifiedOptimizer("sgd", tem_tf.TopK(0.1))
    with pytest.raises(AttributeError, match="masks"):
        optimizer.masks = {"a": [1, 0]}


def test_workers_are_compared_by_their_masks():
    def fact(masks):
        optimizer = tem_tf.SparsifiedOptimizer("sgd", tem_tf.TopK(0.1), masks=masks)
        shape = np.shape(masks["a"]) if masks else [3]
        optimizer.build([keras.Variable(tf.zeros(shape), name="a")])
        return optimizer.aggregator.all_facts().get("masks")

    assert fact(None) is None
    assert fact({"a": [1, 0, 1]}) == fact({"a": np.array([True, False, True])})
    assert fact({"a": [1, 0, 1]}) != fact({"a": [1, 1, 0]})
    assert fact({"a": [[1, 0]]}) != fact({"a": [1, 0]})


def test_the_path_says_how_many_entries_live():
    _, optimizer = train(dyadic(1, 1, SIZE), tem_tf.HardThreshold(0.5), MASKS, 1)
    assert optimizer.path.endswith(f"masks: {LIVE.sum()} of 60 entries of 2 variables")
