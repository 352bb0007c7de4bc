"""The points of the trials: ranges, scales, order, and what is refused."""

import math

import pytest

from tem_studies.data_parallelism.metaparameters import (
    METAPARAMETERS,
    check_kinds,
    metaparameters,
    sobol_points,
)
from tem_studies.refusal import Refusal

ALL = ["learning_rate", "momentum", "decay_steps", "end_learning_rate_factor"]


def test_first_point_is_the_middle_of_every_range():
    (point,) = metaparameters(ALL, 1)
    assert point["learning_rate"] == pytest.approx(1e-2)
    assert point["momentum"] == pytest.approx(1 - 10**-2.5)
    assert point["decay_steps"] == 45_000
    assert point["end_learning_rate_factor"] == pytest.approx(10**-2.5)


@pytest.mark.parametrize(
    ("kind", "at_0", "at_1"),
    [
        ("learning_rate", 1e-4, 1.0),
        ("momentum", 0.9999, 0.9),
        ("decay_steps", 30_000, 60_000),
        ("end_learning_rate_factor", 1e-4, 0.1),
    ],
)
def test_range_has_the_ends_of_the_study(kind, at_0, at_1):
    value = METAPARAMETERS[kind][2]
    assert value(0.0) == pytest.approx(at_0, rel=1e-12)
    assert value(1.0) == pytest.approx(at_1, rel=1e-12)


def test_scales_are_logarithmic_but_for_the_steps():
    for u in (0.125, 0.5, 0.8):
        assert METAPARAMETERS["learning_rate"][2](u) == pytest.approx(10 ** (4 * u - 4))
        assert METAPARAMETERS["momentum"][2](u) == pytest.approx(1 - 10 ** (3 * u - 4))
        assert METAPARAMETERS["decay_steps"][2](u) == int(30_000 + 30_000 * u)


def test_a_trial_keeps_its_point_whatever_the_number_of_trials():
    assert metaparameters(ALL, 20)[:3] == metaparameters(ALL, 3)


def test_points_are_those_of_a_sobol_sequence():
    # Its first 2^k - 1 points after the zeros, with the zeros, meet every interval of
    # 2^-k once, in every dimension.
    points = [[0.0] * 4, *sobol_points(4, 31)]
    for dimension in zip(*points, strict=True):
        assert sorted(math.floor(32 * u) for u in dimension) == list(range(32))


def test_no_metaparameters_give_trials_without_any():
    assert metaparameters([], 2) == [{}, {}]


@pytest.mark.parametrize(
    ("kinds", "optimizer", "decay", "message"),
    [
        (["rate"], "sgd", "constant", "must be among learning_rate, .*'rate'"),
        (["momentum"], "sgd", "constant", "no effect with `optimizer` sgd.*nesterov"),
        (["momentum"], "adam", "constant", "no effect with `optimizer` adam"),
        (["decay_steps"], "sgd", "constant", "no effect with `decay_type` constant"),
        (["learning_rate"] * 2, "sgd", "constant", "each metaparameter once"),
    ],
)
def test_wrong_metaparameter_is_refused(kinds, optimizer, decay, message):
    with pytest.raises(Refusal, match=message):
        check_kinds(kinds, optimizer, decay)
