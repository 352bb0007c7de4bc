"""Laws of strengths that follow the step, and of a replayed list of counts."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf.layout import make_segments, unpack
from tests.alone import step_alone
from tests.compressor_cases import COMPRESSORS

P = tf.constant(np.random.default_rng(0).normal(size=200), tf.float32)
SEGMENTS = make_segments("ab", [(15, 10), (50,)])


def at(schedule, steps):
    return [float(schedule(tf.constant(t, tf.int64))) for t in steps]


def mask_of(compressor, vector, step):
    """What it sends of a vector at a step: bool (200,)."""
    state, corrected = compressor.init(SEGMENTS), unpack(vector, SEGMENTS)
    done = step_alone(compressor, state, corrected, step, SEGMENTS)
    return tf.not_equal(done.dense, 0)


def sent(compressor, steps, graph=False):
    """Entries sent of the same vector at each step."""

    def count(step):
        return tf.math.count_nonzero(mask_of(compressor, P, step))

    count = tf.function(count) if graph else count
    return [int(count(tf.constant(t, tf.int64))) for t in steps]


def test_piecewise_changes_at_its_boundaries():
    schedule = tem_tf.Piecewise((3, 5), (1.0, 0.5, 0.25))
    assert at(schedule, range(7)) == [1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    assert at(tem_tf.Piecewise((), (0.5,)), [0, 9]) == [0.5, 0.5]


def test_ramp_falls_by_the_same_factor_each_step():
    schedule = tem_tf.Ramp(0.25, 0.001, steps=4)
    expected = 0.25 * (0.001 / 0.25) ** (np.arange(5) / 4)
    np.testing.assert_allclose(at(schedule, range(5)), expected, rtol=1e-12)
    assert at(schedule, [4, 5, 10**9]) == [0.001] * 3


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
def test_density_follows_the_step(graph):
    density = tem_tf.Piecewise((1, 2), (1.0, 0.29, 0.01))
    layer, model = tem_tf.TopK(density), tem_tf.TopK(density, scope="model")
    assert sent(model, range(4), graph) == [200, 58, 2, 2]
    assert sent(layer, range(4), graph) == [200, 43 + 14, 2, 2]
    assert sent(tem_tf.RandomK(density), range(4), graph) == [200, 58, 2, 2]


def test_a_scheduled_density_selects_what_the_number_does():
    ramp = tem_tf.Piecewise((1, 2), (0.5, 0.3, 0.07))
    for step, density in enumerate((0.5, 0.3, 0.07)):
        for kind in (tem_tf.TopK, tem_tf.RandomK):
            mask = mask_of(kind(ramp), P, step)
            np.testing.assert_array_equal(mask, mask_of(kind(density), P, step))
            assert np.any(mask) and not np.all(mask)


@pytest.mark.parametrize(
    "schedule", [tem_tf.Piecewise((2,), (1.0, 0.5)), tem_tf.Ramp(1.0, 0.5, steps=3)]
)
def test_threshold_follows_the_step_and_the_unit(schedule):
    compressor = tem_tf.HardThreshold(schedule)
    for step in range(4):
        threshold = np.float32(schedule(tf.constant(step, tf.int64)))
        mask = mask_of(compressor, P, step)
        np.testing.assert_array_equal(mask, np.abs(P) >= threshold)
        mask = mask_of(compressor.scaled(0.25), P / 4, step)
        np.testing.assert_array_equal(mask, np.abs(P) >= threshold)


def test_counts_are_replayed_and_the_last_one_holds():
    replay = tem_tf.TopKSchedule(np.array([200, 0, 7, 3000, 5]))
    assert sent(replay, range(7)) == [200, 0, 7, 200, 5, 5, 5]
    config = keras.saving.serialize_keras_object(replay)
    assert keras.saving.deserialize_keras_object(config) == replay


def test_a_hard_thresholds_counts_replayed_are_the_hard_threshold():
    """At each step the k_t largest entries are those of at least λ."""
    rows = np.random.default_rng(1).normal(size=(6, 200)).astype(np.float32)
    hard, residual, counts, masks = tem_tf.HardThreshold(1.5), np.zeros(200), [], []
    for row in rows:
        p = tf.constant(row + residual, tf.float32)
        masks.append(mask_of(hard, p, 0).numpy())
        counts.append(int(masks[-1].sum()))
        residual = np.where(masks[-1], 0, p)
    replay, residual = tem_tf.TopKSchedule(counts), np.zeros(200)
    for step, row in enumerate(rows):
        p = tf.constant(row + residual, tf.float32)
        mask = mask_of(replay, p, step).numpy()
        np.testing.assert_array_equal(mask, masks[step])
        residual = np.where(mask, 0, p)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: tem_tf.Piecewise((2, 2), (1, 1, 1)), "`boundaries` must be steps > 0"),
        (lambda: tem_tf.Piecewise((0,), (1, 1)), "`boundaries` must be steps > 0"),
        (lambda: tem_tf.Piecewise((0.5,), (1, 1)), r"`boundaries`.*integers"),
        (lambda: tem_tf.Piecewise((3,), (1.0,)), "`values` must be one more than"),
        (lambda: tem_tf.Piecewise((3,), (1.0, 0)), r"`values`.*finite numbers > 0"),
        (lambda: tem_tf.Piecewise(3, (1.0, 1)), "`boundaries` must be a tuple"),
        (lambda: tem_tf.Ramp(0, 1, 5), "`start` must be a finite number > 0"),
        (lambda: tem_tf.Ramp(1, float("inf"), 5), "`end` must be a finite number > 0"),
        (lambda: tem_tf.Ramp(1, 0.1, 0), "`steps` must be an integer >= 1"),
        (lambda: tem_tf.TopK(tem_tf.Ramp(2, 0.1, 5)), "Every value of a schedule must"),
        (lambda: tem_tf.TopKSchedule([]), "`counts` must be integers"),
        (lambda: tem_tf.TopKSchedule([1, -1]), "`counts` must be integers"),
        (lambda: tem_tf.TopKSchedule([0.5] * 99), "`counts` must be integers.*…$"),
        (lambda: tem_tf.TopKSchedule("12"), "`counts` must be integers"),
        (lambda: tem_tf.TopKSchedule(3), "`counts` must be integers"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize("method", ["__call__", "extremes", "scaled"])
def test_a_schedule_without_a_method_says_what_is_missing(method):
    with pytest.raises(NotImplementedError, match=f"must implement `{method}`"):
        getattr(tem_tf.Schedule(), method)(*([] if method == "extremes" else [1]))


SCALED = [
    tem_tf.HardThreshold(0.1),
    tem_tf.HardThreshold(tem_tf.Ramp(0.1, 0.01, 5)),
    tem_tf.AdaptiveThreshold(0.1, 10),
    tem_tf.Piecewise((2,), (1.0, 0.1)),
    tem_tf.Ramp(1.0, 0.1, 5),
    *COMPRESSORS.values(),
]


@pytest.mark.parametrize("original", SCALED, ids=repr)
def test_a_scaled_subclass_is_still_one_of_its_kind(original):
    """So that what it overrides is called, and what it has beside stays."""

    @dataclasses.dataclass(frozen=True)
    class Own(type(original)):
        mark: str = "own"

    fields = {f.name: getattr(original, f.name) for f in dataclasses.fields(original)}
    scaled = Own(**fields, mark="kept").scaled(0.5)
    assert (type(scaled), scaled.mark) == (Own, "kept")
    for name, value in dataclasses.asdict(original.scaled(0.5)).items():
        theirs = dataclasses.asdict(scaled)[name]
        np.testing.assert_equal(theirs, value)
