"""Under `jit_compile=True` one replica trains as without, and says what it cannot do.

All rows of compressors, memories and value types take long:

    pytest tests/test_xla.py -m exhaustive
"""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf import nonfinite
from tem_tf.compressors.permutation import permuted
from tem_tf.memory import zeros
from tests import same_bits
from tests.steps import dyadic
from tests.training import fit, make_model, make_strategy, thresholded

STEPS = 100
SHAPES = ((8, 8), (4, 2, 4), (16,), (4,))  # The last goes whole.
SIZE = sum(map(np.prod, SHAPES))
# k that follows the step, by rank.
RAMP = tem_tf.Ramp(0.5, 0.02, steps=50)
COMPRESSORS = same_bits.COMPRESSORS | {
    "topk_layer_ramp": tem_tf.TopK(RAMP),
    "topk_model_ramp": tem_tf.TopK(RAMP, scope="model"),
    "random_k_ramp": tem_tf.RandomK(RAMP, seed=2),
    "adaptive_threshold": tem_tf.AdaptiveThreshold(0.05, steps=STEPS),
    "topk_schedule": tem_tf.TopKSchedule([20, 0, 3] * 33),
}
# By powers of two, so that nothing is rounded that XLA would not round.
MEMORIES = same_bits.MEMORIES | {
    "decaying": tem_tf.DecayingErrorFeedback(0.5),
    "dgc": tem_tf.MomentumCorrection(0.5),
    "dgc_unmasked": tem_tf.MomentumCorrection(0.5, masking=False),
    "ef21_sgdm": tem_tf.EF21SGDM(0.5),
}
SPARSIFIERS = [
    name for name, c in COMPRESSORS.items() if isinstance(c, tem_tf.Sparsifier)
]
ROWS = [
    (compressor, memory, value_dtype)
    for compressor, memory, value_dtype in itertools.product(
        COMPRESSORS, MEMORIES, same_bits.VALUE_DTYPES
    )
    if value_dtype == "float32" or compressor in SPARSIFIERS
]
FEW = [
    ("hard_threshold", "error_feedback", "float32"),
    ("topk_layer_ramp", "dgc", "bfloat16"),
    ("random_k_ramp", "error_feedback", "float16"),
    ("powersgd", "decaying", "float32"),
    ("sign", "ef21", "float32"),
    ("topk_layer", "error_feedback", "int2"),
]
FEW_LOSSES = [("adaptive_threshold", "error_feedback", "float32")]


def table(few):
    marked = pytest.mark.exhaustive
    others = (pytest.param(r, marks=marked) for r in ROWS if r not in few)
    return pytest.mark.parametrize("row", [*few, *others], ids="-".join)


@dataclasses.dataclass(frozen=True)
class Recorded(tem_tf.Memory):
    """Another memory, beside which is kept what was sent last."""

    of: tem_tf.Memory

    def init(self, segments):
        return {**self.of.init(segments), "sent": zeros(segments)}

    def compensate(self, state, gradient, step, segments):
        return self.of.compensate(state, gradient, step, segments)

    def update(self, state, corrected, own, step, segments):
        updated = self.of.update(state, corrected, own, step, segments)
        return {**updated, "sent": list(own)}

    def apply(self, state, total, step, segments):
        direction, others = self.of.apply(state, total, step, segments)
        return direction, {**others, "sent": state["sent"]}


def comparable(row):
    """Steps after which a last bit is still one of the last.

    By PowerSGD and error feedback it grows to the first within forty steps: without
    XLA a last bit of one gradient does so, too.
    """
    return 10 if row[0] == "powersgd" else STEPS


class Applied:
    """An optimizer with given gradients (steps, n) and rate 1.

    Args:
        gradients: Of weights that start at zero.
        compressor: Of the wrapper.
        jit_compile: Bool.
        shapes: Of the variables.
        **options: Of the wrapper.
    """

    def __init__(self, gradients, compressor, jit_compile, shapes=SHAPES, **options):
        gradients = tf.constant(gradients, tf.float32)
        self.variables = [keras.Variable(tf.zeros(shape)) for shape in shapes]
        self.optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(1.0), compressor, **options
        )
        self.optimizer.build(self.variables)
        sizes = [int(np.prod(shape)) for shape in shapes]

        @tf.function(autograph=False, jit_compile=jit_compile)
        def step(index):
            parts = tf.split(tf.gather(gradients, index), sizes)
            shaped = [tf.reshape(p, s) for p, s in zip(parts, shapes, strict=True)]
            self.optimizer.apply(shaped, self.variables)

        self.step = step

    def weights(self):
        return np.concatenate([v.numpy().ravel() for v in self.variables])

    def sent(self):
        state = self.optimizer.aggregator.state._variables
        names = [n for n in state if n.startswith("memory/sent/")]
        return np.concatenate([state[name].numpy() for name in names])


def selections(row, jit_compile):
    compressor, memory, value_dtype = row
    applied = Applied(
        dyadic(STEPS, 1, SIZE)[:, 0],
        COMPRESSORS[compressor],
        jit_compile,
        memory=Recorded(MEMORIES[memory] or tem_tf.Memory()),
        value_dtype=value_dtype,
        dense_below=5,
        local_clipnorm=100.0 if compressor in same_bits.CLIPPED else None,
    )
    sent, weights = [], []
    for index in range(STEPS):
        applied.step(tf.constant(index))
        sent.append(applied.sent())
        weights.append(applied.weights())
    return np.array(sent), np.array(weights), applied.optimizer.communication_summary()


@table(FEW)
def test_the_same_entries_are_sent_for_100_steps(row):
    (sent, weights, told), (expected, other_weights, expected_told) = (
        selections(row, jit_compile) for jit_compile in (True, False)
    )
    steps = comparable(row)
    close = {"rtol": 1e-3, "atol": 1e-3}
    np.testing.assert_allclose(sent[:steps], expected[:steps], **close)
    np.testing.assert_allclose(weights[:steps], other_weights[:steps], **close)
    if row[0] in (*SPARSIFIERS, "sign"):
        np.testing.assert_array_equal(np.sign(sent), np.sign(expected))
    if row[0] in SPARSIFIERS:  # Moved as they are, they are equal to the bit.
        np.testing.assert_array_equal(sent, expected)
        assert 0 < np.mean(sent != 0) < 0.9
    counts = ["replicas", "steps", "entries_sent", "payload_bytes", "padded_bytes"]
    counts += ["dense_bytes", "nonfinite_gradients", "overflow_steps"]
    assert told.keys() == expected_told.keys() >= set(counts)
    for name in counts if steps < STEPS else told:
        rel = 0 if name in counts else 1e-3
        assert told[name] == pytest.approx(expected_told[name], rel=rel, abs=rel), name


def losses(row, jit_compile):
    compressor, memory, value_dtype = row
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, "tanh"), keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(0.02),
        COMPRESSORS[compressor].scaled(0.1),
        same_bits.MEMORIES[memory],
        value_dtype=value_dtype,
        dense_below=5,
    )
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    assert model.jit_compile == jit_compile
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS, 32, 8)).astype("float32")
    y = np.sin(x[..., :4] + x[..., 4:])
    found = []
    for batch in zip(x, y, strict=True):
        model.reset_metrics()
        found.append(model.train_on_batch(*batch))
    return np.array(found)


@table(FEW_LOSSES)
def test_losses_are_the_same(row):
    found, expected = losses(row, True), losses(row, False)
    assert expected[-10:].mean() < expected[:10].mean()  # It trains.
    # A last bit may bring a value to its other neighbour of 16 bits, which for bfloat16
    # is 2^-8 of it away.
    atol = 1e-5 if row[2] == "float32" else 1e-3
    steps = comparable(row)
    np.testing.assert_allclose(found[:steps], expected[:steps], rtol=0, atol=atol)


# ------------------------------------------------------------------------------- pieces


def changing_slices(graph):
    """Slices whose bounds are no constants, for each value of which XLA compiles."""
    definition = graph.as_graph_def()
    bodies = [f.node_def for f in definition.library.function]
    found = []
    for nodes in (definition.node, *bodies):
        constants = {node.name for node in nodes if node.op == "Const"}
        found += [
            node.name
            for node in nodes
            if node.op == "StridedSlice"
            and not {name.split(":")[0] for name in node.input[1:]} <= constants
        ]
    return found


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_no_step_is_compiled_anew(compressor):
    applied = Applied(dyadic(1, 1, SIZE)[:, 0], COMPRESSORS[compressor], True)
    traced = applied.step.get_concrete_function(tf.constant(0))
    assert not changing_slices(traced.graph)


def test_a_step_that_is_compiled_anew_is_found():
    numbers = tf.range(4)
    traced = tf.function(lambda i: numbers[i]).get_concrete_function(tf.constant(0))
    assert changing_slices(traced.graph)


@pytest.mark.parametrize("size", [1, 40, 5000, 2**16, 2**16 + 1, 2**31 - 1])
def test_a_permutation_is_that_of_the_operation(size):
    places = tf.range(min(size, 7))

    def drawn(steps):
        seeds = 0, 1, 2**31 - 1
        return [
            permuted(places, seed, step, size - 1)
            for seed, step in zip(seeds, tf.unstack(steps, 3), strict=True)
        ]

    steps = tf.constant([0, 7, 2**40 + 1], tf.int64)
    compiled = tf.function(drawn, autograph=False, jit_compile=True)
    np.testing.assert_array_equal(compiled(steps), drawn(steps))


@dataclasses.dataclass(frozen=True)
class Own(tem_tf.Compressor):
    """Hears a threshold of replica 0, and gathers k entries that it found itself."""

    def compress(self, state, corrected, step, segments, heard=()):
        vector = tf.concat(corrected, axis=0)
        if not heard:
            return tem_tf.Broadcast([tf.reduce_max(tf.abs(vector))[tf.newaxis]], step)
        if len(heard) == 1:
            at = tf.sort(tf.math.top_k(tf.abs(vector) / heard[0].total[0], 3).indices)
            values = tf.gather(vector, at)
            message = tem_tf.SparseGradient(values, at, vector.shape[0])
            return tem_tf.Gather(message)
        return tem_tf.Done(heard[1].total, state)


@pytest.mark.parametrize(
    "compressor", [Own(), tem_tf.HardThreshold(1.5)], ids=lambda c: type(c).__name__
)
def test_dense_warm_up_and_compressors_of_ones_own(compressor):
    one, other = (
        Applied(dyadic(6, 1, SIZE)[:, 0], compressor, jit_compile, warmup_steps=2)
        for jit_compile in (True, False)
    )
    for index in range(6):
        one.step(tf.constant(index))
        other.step(tf.constant(index))
        np.testing.assert_allclose(one.weights(), other.weights(), atol=1e-5)
    told, expected = (a.optimizer.communication_summary() for a in (one, other))
    for name in ("entries_sent", "payload_bytes"):
        assert told[name] == expected[name]


def test_other_dtypes_go_whole():
    variables = [tf.Variable([1, 2], dtype=d) for d in (tf.float64, tf.complex64)]
    variables += [tf.Variable([1.0, 2.0])]
    aggregator = tem_tf.Aggregator(tem_tf.TopK(k=1))
    aggregator.build(variables)
    step = tf.function(aggregator.aggregate, autograph=False, jit_compile=True)
    *whole, compressed = step([tf.identity(v) for v in variables], tf.constant(0))
    for gradient, variable in zip(whole, variables[:2], strict=True):
        assert gradient.dtype == variable.dtype
        np.testing.assert_array_equal(gradient, variable.numpy())
    np.testing.assert_array_equal(compressed, [0, 2])


# ----------------------------------------------------------------------------- in words


def test_the_path_says_so_and_the_state_is_that_of_the_kernels():
    compiled, plain = (
        Applied(dyadic(2, 1, SIZE)[:, 0], tem_tf.TopK(0.2), jit_compile)
        for jit_compile in (True, False)
    )
    plain.step(tf.constant(0))
    compiled.step(tf.constant(0))
    assert compiled.optimizer.path == (
        "TensorFlow's operations: XLA compiles the step, and with one replica nothing "
        "travels"
    )
    assert "XLA" not in plain.optimizer.path
    plain.step(tf.constant(1))
    compiled.step.python_function(tf.constant(1))  # Goes on without XLA.
    assert "XLA" not in compiled.optimizer.path
    np.testing.assert_array_equal(compiled.weights(), plain.weights())


def test_two_replicas_are_refused():
    strategy = make_strategy(2)
    message = (
        "A sparsifier cannot be compiled by XLA where replicas exchange: the number of "
        "entries that a worker sends changes from step to step, and XLA's shapes do "
        "not. Pass `jit_compile=False` to `model.compile`. Received: 2 replicas"
    )
    model = make_model(thresholded, strategy, jit_compile=True)
    with pytest.raises(ValueError, match=message):
        fit(model)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_network_may_be_compiled_alone(replicas):
    """As docs/xla.md has it: optimizer and exchange stay outside, on any number."""
    strategy = make_strategy(replicas)
    found = []
    for compiles in (False, True):
        with strategy.scope():
            keras.utils.set_random_seed(0)
            layers = [keras.layers.BatchNormalization(), keras.layers.Dense(4)]
            model = keras.Sequential([keras.Input((8,)), *layers])
            model.compile(thresholded(0.1, 0.01), "mse", jit_compile=False)
        if compiles:
            model.call = tf.function(model.call, jit_compile=True)
        rng = np.random.default_rng(0)
        x = rng.normal(size=(320, 8)).astype("float32")
        history = model.fit(x, x[:, :4], 16, verbose=0, shuffle=False)
        after = model.evaluate(x, x[:, :4], 16, verbose=0)
        found.append((history.history["loss"][0], after, model.get_weights()))
        assert "XLA" not in model.optimizer.path
    (*plain, weights), (*compiled, others) = found
    assert compiled[1] < compiled[0]  # It trains.
    # Last bits differ, and what they decide of 36 entries did not here.
    np.testing.assert_allclose(compiled, plain, rtol=1e-4)
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------------------------- NaN

COUNTED = r"A gradient has NaN or Inf\. Steps since the start or `forget`: 2, in which"


def with_nans(**options):
    gradients = np.ones((4, SIZE))
    gradients[1:3, 5] = np.nan
    applied = Applied(gradients, tem_tf.HardThreshold(0.5), True, **options)
    for index in range(4):
        applied.step(tf.constant(index))
    np.testing.assert_array_equal(applied.weights(), -2)  # These steps count as zero.
    return applied.optimizer


def test_a_nan_is_raised_where_somebody_asks():
    optimizer = with_nans()
    for ask in (
        optimizer.communication_summary,
        optimizer.communication_by_variable,
        optimizer.communication_summaries,
        lambda: optimizer.finalize_variable_values(optimizer._trainable_variables),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=COUNTED) as error:
            ask()
        assert nonfinite.is_nonfinite_error(error.value)
    optimizer.forget()
    assert optimizer.communication_summary()["steps"] == 0


def test_a_nan_that_counts_as_zero_is_told():
    optimizer = with_nans(nonfinite="zero")
    optimizer.finalize_variable_values(optimizer._trainable_variables)
    assert optimizer.communication_summary()["nonfinite_gradients"] == 2


@pytest.mark.parametrize("jit_compile", [True, False])
def test_a_nan_ends_fit(jit_compile):
    model = make_model(thresholded, jit_compile=jit_compile)
    x, y = np.ones((8, 3)), np.ones((8, 2))
    x[2] = np.nan
    with pytest.raises(tf.errors.InvalidArgumentError, match="has NaN or Inf") as error:
        model.fit(x, y, batch_size=2, epochs=2, verbose=0)
    assert nonfinite.is_nonfinite_error(error.value)
    steps = int(model.optimizer.iterations.numpy())
    assert steps == 8 if jit_compile else steps < 8


# ------------------------------------------------------------- steps that do not update


def train_conditionally(jit_compile, compressor, options):
    """Weights, updates and summary after nine steps, the fifth with NaN if it skips."""
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(0.5),
        compressor,
        gradients_divided_by_replicas=False,
        **options,
    )
    weights = keras.Variable(tf.zeros([8]))
    optimizer.build([weights])

    @tf.function(jit_compile=jit_compile)
    def step(gradient):
        optimizer.apply([gradient * optimizer.scale_loss(1.0)], [weights])

    for index, gradient in enumerate(dyadic(9, 1, size=8)[:, 0]):
        poison = np.nan if index == 4 and "nonfinite" in options else 1.0
        step(tf.constant(gradient * poison, tf.float32))
    summary = optimizer.communication_summary()
    return weights.numpy(), optimizer.iterations.numpy(), summary


@pytest.mark.parametrize(
    ("options", "updates"),
    [
        ({"accumulate_steps": 4}, 2),
        ({"nonfinite": "skip"}, 8),
        ({"loss_scale": "dynamic", "accumulate_steps": 2}, 4),
    ],
)
@pytest.mark.parametrize("compressor", [tem_tf.TopK(0.5), tem_tf.Identity()])
def test_a_step_may_be_skipped_or_held_back(compressor, options, updates):
    plain, compiled = (
        train_conditionally(jit_compile, compressor, options)
        for jit_compile in (False, True)
    )
    np.testing.assert_array_equal(plain[0], compiled[0])
    assert plain[1] == compiled[1] == updates
    for name in ("skipped_steps", "payload_bytes", "entries_sent", "steps"):
        assert plain[2][name] == compiled[2][name]
    assert compiled[2]["skipped_steps"] == ("nonfinite" in options)
