"""Training with the native kernels gives the bits that it gives without."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf import native
from tem_tf.replica_state import ReplicaState
from tests.compressor_cases import COMPRESSORS, EveryOther
from tests.memory_cases import ErrorFeedback21
from tests.native_cases import needs_native
from tests.steps import apply_gradients
from tests.training import make_strategy

pytestmark = needs_native


@dataclasses.dataclass(frozen=True)
class AboveTheMean(tem_tf.Sparsifier):
    """A stranger's: its rule looks at the corrected gradient, and it shares a norm.

    Sends what is above the mean magnitude, times what all shared at the step before.
    """

    def init(self, segments):
        return {"factor": tf.constant(1.0), "entries": tf.constant(0, tf.int64)}

    def share(self, state, gradient, step, segments):
        return tf.stack([tf.reduce_max(tf.abs(g)) for g in gradient])

    def rule(self, state, corrected, step, segments):
        mean = tf.reduce_mean(tf.abs(tf.concat(list(corrected), axis=0)))
        return tem_tf.AtLeast(state["factor"] * mean)

    def observe(self, state, heard, step, segments):
        factor = tf.reduce_min(heard.shared) / (1 + tf.reduce_max(heard.shared))
        return {"factor": factor, "entries": state["entries"] + heard.entries}


@dataclasses.dataclass(frozen=True)
class LargestOfTheFirst(tem_tf.Sparsifier):
    """Another: so many of each variable, the first one's from the step."""

    def rule(self, state, corrected, step, segments):
        first = tf.minimum(tf.cast(step, tf.int32), segments[0].size)
        return tem_tf.Largest([first, *(min(2, s.size) for s in segments[1:])])


FAST = {
    **{
        name: compressor
        for name, compressor in COMPRESSORS.items()
        if isinstance(compressor, tem_tf.Sparsifier) and compressor.in_kernels
    },
    "every_other": EveryOther(),
    "above_the_mean": AboveTheMean(),
    "largest_of_the_first": LargestOfTheFirst(),
}
DGC = tem_tf.MomentumCorrection(0.9)
CASES = [
    *((name, {}) for name in FAST),
    ("hard_threshold", {"dense_below": 20}),
    ("random_k", {"dense_below": 20}),
    ("every_other", {"dense_below": 20}),
    ("hard_threshold", {"nonfinite": "zero", "dense_below": 20}),
    ("adaptive_threshold", {"nonfinite": "zero", "dense_below": 20}),
    ("above_the_mean", {"nonfinite": "zero"}),
    ("random_k", {"nonfinite": "zero"}),
    ("topk_layer", {"gradients_divided_by_replicas": False}),
    ("hard_threshold", {"value_dtype": "bfloat16", "warmup_steps": 2}),
    ("topk_model", {"value_dtype": "int2", "rounding_seed": 1}),
    ("random_k", {"value_dtype": "float16"}),
    ("adaptive_threshold", {"local_clipnorm": 1.0, "dense_below": 20}),
    ("topk_layer", {"local_clipnorm": 1.0, "value_dtype": "int4"}),
    ("random_k", {"local_clipnorm": 1.0, "nonfinite": "zero"}),
    ("above_the_mean", {"memory": tem_tf.DecayingErrorFeedback(0.9)}),
    ("hard_threshold", {"memory": DGC, "dense_below": 20}),
    ("topk_model", {"memory": DGC, "value_dtype": "int2", "warmup_steps": 1}),
    ("random_k", {"memory": tem_tf.MomentumCorrection(0.5, masking=False)}),
    ("topk_model", {"memory": DGC, "nonfinite": "zero", "local_clipnorm": 1.0}),
    ("hard_threshold", {"memory": tem_tf.EF21(), "dense_below": 20}),
    ("topk_layer", {"memory": tem_tf.EF21(), "value_dtype": "bfloat16"}),
    ("random_k", {"memory": tem_tf.EF21(), "nonfinite": "zero"}),
    ("topk_model", {"memory": tem_tf.EF21(), "warmup_steps": 2}),
    ("hard_threshold", {"memory": DGC, "nonfinite": "zero", "warmup_steps": 2}),
    ("hard_threshold", {"memory": tem_tf.EF21(), "nonfinite": "zero"}),
]


def gradients_for(replicas, options, steps=4, size=50):
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(steps, replicas, size))
    if options.get("nonfinite") == "zero":
        gradients[1, -1, 3] = np.nan
    return gradients


@pytest.mark.parametrize(
    ("replicas", "graph"),
    [
        (1, True),
        pytest.param(2, True, marks=pytest.mark.exhaustive),
        pytest.param(2, False, marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_weights_residuals_and_counts(monkeypatch, name, options, replicas, graph):
    check(monkeypatch, name, options, replicas, graph)


@pytest.mark.slow
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hard_threshold", {"nonfinite": "zero", "dense_below": 20}),
        ("random_k", {"nonfinite": "zero"}),
        ("topk_layer", {"gradients_divided_by_replicas": False}),
        ("adaptive_threshold", {"local_clipnorm": 1.0, "dense_below": 20}),
        ("topk_model", {"memory": DGC, "value_dtype": "int2", "warmup_steps": 1}),
        ("above_the_mean", {"memory": tem_tf.EF21(), "value_dtype": "bfloat16"}),
    ],
    ids=str,
)
def test_two_replicas_do_so_too(monkeypatch, name, options, graph):
    check(monkeypatch, name, options, 2, graph)


def check(monkeypatch, name, options, replicas, graph):
    gradients = gradients_for(replicas, options)
    outcomes = []
    for mode in ("built", "0"):
        monkeypatch.setenv("TEM_TF_NATIVE", mode)
        weights, optimizer = apply_gradients(
            make_strategy(replicas), gradients, FAST[name], graph, **options
        )
        has_kernels = replicas == 1 or "warmup_steps" not in options
        in_use = mode == "built" and has_kernels
        assert (optimizer.path == "native kernels") == in_use
        held = states(make_strategy(replicas), optimizer, "memory/")
        own = states(make_strategy(replicas), optimizer, "compressor/")
        outcomes.append((weights, held, own, optimizer.communication_summary()))
    ours, theirs = outcomes
    for own, other in zip([ours[0], *ours[1]], [theirs[0], *theirs[1]], strict=True):
        np.testing.assert_array_equal(own.view(np.uint32), other.view(np.uint32))
    for own, other in zip(ours[2], theirs[2], strict=True):
        np.testing.assert_array_equal(own, other)
    for key, value in ours[3].items():
        # Norms are summed in another order.
        assert value == pytest.approx(theirs[3][key], rel=1e-5, abs=1e-12), key


def test_blocks_are_left_to_operations():
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(), COMPRESSORS["topk_block"]
    )
    optimizer.build([keras.Variable(tf.zeros([8]))])
    assert optimizer.path == (
        "TensorFlow's operations: they do not know the rule of "
        f"{COMPRESSORS['topk_block']!r}"
    )


def states(strategy, optimizer, what):
    """What is kept under such a name, of all replicas of this process."""
    state = optimizer.aggregator.state
    names = [name for name in state._variables if name.startswith(what)]
    found = strategy.run(lambda: [state.read(name) for name in names])
    return [
        np.array(value)
        for leaf in found
        for value in strategy.experimental_local_results(leaf)
    ]


def native_ops(compressor, gradient=None, **options):
    """Types of our own ops in the graph of one step."""
    weights = keras.Variable(tf.zeros([8]))
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(1.0), compressor, **options
    )
    optimizer.build([weights])
    gradient = tf.ones([8]) if gradient is None else gradient

    @tf.function
    def step():
        optimizer.apply([gradient], [weights])

    graph = step.get_concrete_function().graph
    types = {operation.type for operation in graph.get_operations()}
    return {name for name in types if name.startswith("TemTf")}


def selections(*arguments, **options):
    """Those of them that select."""
    found = native_ops(*arguments, **options)
    return {name for name in found if name.startswith("TemTfSelect")}


class _Renamed(tem_tf.HardThreshold):
    """Changes nothing of what the kernels do."""

    def share(self, state, gradient, step, segments):
        return tf.ones([1])


class _OwnFeedback(tem_tf.ErrorFeedback):
    """Likewise."""

    def redistribute(self, states, workers):
        return super().redistribute(states[:1], workers)


@pytest.mark.parametrize(
    ("compressor", "op"),
    [
        (tem_tf.HardThreshold(0.1), "TemTfSelectThreshold"),
        (tem_tf.AdaptiveThreshold(0.1, 5), "TemTfSelectThreshold"),
        (tem_tf.TopK(k=1), "TemTfSelectTopK"),
        (tem_tf.TopKSchedule([2, 0]), "TemTfSelectTopK"),
        (tem_tf.Accordion(0.2, 0.5, 2), "TemTfSelectTopK"),
        (tem_tf.RandomK(0.1), "TemTfSelectGiven"),
        (EveryOther(), "TemTfSelectGiven"),
        (AboveTheMean(), "TemTfSelectThreshold"),
        (LargestOfTheFirst(), "TemTfSelectTopK"),
        (_Renamed(0.1), "TemTfSelectThreshold"),
    ],
    ids=lambda value: (
        type(value).__name__ if isinstance(value, tem_tf.Compressor) else ""
    ),
)
def test_the_kernels_are_taken_where_they_can_be(monkeypatch, compressor, op):
    assert selections(compressor) == {op}
    monkeypatch.setenv("TEM_TF_NATIVE", "0")
    assert native_ops(compressor) == set()


def test_the_kernels_take_a_memory_that_changes_nothing_of_theirs():
    assert selections(TOPK, memory=_OwnFeedback()) == {"TemTfSelectTopK"}


class _OwnCompress(tem_tf.TopK):
    def compress(self, state, corrected, step, segments, heard=()):
        return super().compress(state, corrected, step, segments, heard)


def _overriding(method):
    """An ErrorFeedback with a method of its own, which does what its parent's does."""

    def own(self, *arguments):
        return getattr(tem_tf.ErrorFeedback, method)(self, *arguments)

    return type(f"Own_{method}", (tem_tf.ErrorFeedback,), {method: own})()


TOPK = tem_tf.TopK(k=1)
NO_RULE = "is no sparsifier by a rule"
OTHER_MEMORY = (
    "of memories they know ErrorFeedback, DecayingErrorFeedback, MomentumCorrection, "
    "EF21, and this is"
)
NOTHING = "there are no entries to compress, or more than 2^31"


@pytest.mark.parametrize(
    ("compressor", "options", "reason"),
    [
        (
            tem_tf.Identity(),
            {"memory": tem_tf.ErrorFeedback()},
            f"Identity {NO_RULE}",
        ),
        (_OwnCompress(k=1), {}, f"_OwnCompress {NO_RULE}"),
        (TOPK, {"memory": None}, f"{OTHER_MEMORY} no memory"),
        (TOPK, {"memory": ErrorFeedback21()}, f"{OTHER_MEMORY} ErrorFeedback21"),
        (TOPK, {"memory": tem_tf.EF21SGDM()}, f"{OTHER_MEMORY} EF21SGDM"),
        *(
            (TOPK, {"memory": _overriding(method)}, f"{OTHER_MEMORY} Own_{method}")
            for method in ("init", "compensate", "update", "apply")
        ),
        (TOPK, {"dense_below": 100}, NOTHING),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_operations_are_taken_elsewhere_and_the_reason_is_told(
    compressor, options, reason
):
    assert selections(compressor, **options) == set()
    assert path_of(compressor, **options) == f"TensorFlow's operations: {reason}"


def path_of(compressor, variables=((8, "float32"),), **options):
    weights = [
        keras.Variable(tf.zeros([size], dtype), dtype=dtype, name=f"v{i}")
        for i, (size, dtype) in enumerate(variables)
    ]
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(1.0), compressor, **options
    )
    optimizer.build(weights)
    return optimizer.path


def test_the_path_says_why_there_are_no_kernels(monkeypatch):
    assert path_of(TOPK) == "native kernels"
    monkeypatch.setattr(ReplicaState, "is_on_cpu", lambda *arguments: False)
    reason = "the residuals are not in a CPU's memory"
    assert path_of(TOPK) == f"TensorFlow's operations: {reason}"
    monkeypatch.setenv("TEM_TF_NATIVE", "0")
    reason = native.status().reason
    assert "TEM_TF_NATIVE" in reason
    assert path_of(TOPK) == f"TensorFlow's operations: {reason}"


def test_the_path_names_variables_of_other_dtypes():
    variables = [(8, "float32"), (2, "float64"), (3, "bfloat16"), (1, "complex64")]
    assert path_of(TOPK, variables) == (
        "TensorFlow's operations: some variables are of other dtypes; summed whole, in "
        "dtypes of their own: v1 (float64), v3 (complex64)"
    )
    identity = path_of(tem_tf.Identity(), variables)
    assert identity == "Keras's own all-reduce: nothing is compressed"


def test_a_residual_is_looked_for_where_it_lives():
    with tf.device("CPU:1"):
        state = ReplicaState()
        state.add("m/a", tf.zeros([2]))
    segments = tem_tf.layout.make_segments("a", [(2,)])
    assert state.is_on_cpu("m", segments)


def train_other_kinds():
    """Embeddings' slices with a repeated row, and bfloat16; returns the weights."""
    rng = np.random.default_rng(0)
    rows = tf.constant(rng.normal(size=(3, 4)), tf.float32)
    sixteen = tf.constant(rng.normal(size=(5,)), tf.bfloat16)
    table = keras.Variable(tf.zeros([6, 4]))
    other = keras.Variable(tf.zeros([5], tf.bfloat16), dtype="bfloat16")
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(1.0), tem_tf.TopK(density=0.3)
    )
    optimizer.build([table, other])

    @tf.function
    def step():
        slices = tf.IndexedSlices(rows, tf.constant([1, 4, 1]), tf.constant([6, 4]))
        optimizer.apply([slices, sixteen], [table, other])

    for _ in range(3):
        step()
    return [table.numpy(), tf.cast(other.value, tf.float32).numpy()]


@needs_native
@pytest.mark.parametrize("compressor", ["hard_threshold", "random_k"])
def test_totals_are_vectors_whatever_the_shapes_of_variables(monkeypatch, compressor):
    """Kernels sum in the variables' shapes; a memory with a last word wants vectors."""
    gradient = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    outcomes = []
    for mode in ("built", "0"):
        monkeypatch.setenv("TEM_TF_NATIVE", mode)
        weights = keras.Variable(tf.zeros([3, 4]))
        optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(1.0), COMPRESSORS[compressor], memory=tem_tf.EF21()
        )
        for _ in range(2):
            optimizer.apply([tf.constant(gradient)], [weights])
        outcomes.append(weights.numpy())
    np.testing.assert_array_equal(*outcomes)
    assert np.any(outcomes[0])


def test_gradients_of_other_kinds(monkeypatch):
    monkeypatch.setenv("TEM_TF_NATIVE", "built")
    ours = train_other_kinds()
    monkeypatch.setenv("TEM_TF_NATIVE", "0")
    for own, other in zip(ours, train_other_kinds(), strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("compressor", [tem_tf.HardThreshold(1.0), tem_tf.RandomK(1.0)])
@pytest.mark.parametrize("memory", ["auto", DGC, tem_tf.EF21()], ids=str)
@pytest.mark.parametrize("warmup_steps", [0, 2])
def test_a_gradient_that_is_not_finite_leaves_what_is_kept(
    compressor, memory, warmup_steps
):
    weights = keras.Variable(tf.zeros([8]))
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(1.0),
        compressor,
        memory=memory,
        warmup_steps=warmup_steps,
    )
    strategy = tf.distribute.get_strategy()
    optimizer.apply([tf.fill([8], 0.75)], [weights])
    before = states(strategy, optimizer, "memory/"), weights.numpy()
    with pytest.raises(tf.errors.InvalidArgumentError, match="has NaN or Inf"):
        optimizer.apply([tf.constant([np.nan] + 7 * [0.75])], [weights])
    assert optimizer.path == "native kernels"
    np.testing.assert_array_equal(states(strategy, optimizer, "memory/"), before[0])
    np.testing.assert_array_equal(weights.numpy(), before[1])


def test_gradients_are_laid_end_to_end_nowhere(monkeypatch):
    def refuse(vectors):
        raise AssertionError(f"{len(vectors)} gradients were packed")

    for module in ("compressors.rules", "local_step", "transport"):
        monkeypatch.setattr(f"tem_tf.{module}.pack", refuse)
    weights = keras.Variable(tf.zeros([8]))
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(1.0), tem_tf.HardThreshold(0.5)
    )
    optimizer.apply([tf.ones([8])], [weights])
    np.testing.assert_array_equal(weights, -np.ones(8))
    monkeypatch.setenv("TEM_TF_NATIVE", "0")
    with pytest.raises(AssertionError, match="gradients were packed"):
        optimizer.apply([tf.ones([8])], [weights])
