"""Forecasts: what follows from a link, times and bytes, and what is measured."""

import math

import keras
import numpy as np
import pytest

import tem_tf
from tem_tf import capacity
from tem_tf.forecast import measuring
from tem_tf.forecast.costs import Cost, break_even_bandwidth, waiting_seconds
from tem_tf.forecast.measuring import measure_way
from tem_tf.forecast.report import DENSE

LINK = tem_tf.Link(bandwidth=1e6, latency=0.01)


def test_seconds_of_a_ring():
    # Four workers: six rounds of a quarter, and three of a whole message, after a
    # request.
    assert LINK.reduce(4e6, 4) == pytest.approx(6 * (0.01 + 1))
    assert LINK.gather(1e6, 4) == pytest.approx(0.01 + 3 * (0.01 + 1))


def test_few_bytes_take_a_round_trip():
    """Between two workers, where there is nobody to pass anything on, too."""
    assert LINK.gather(1e3, 4) == pytest.approx(2 * 0.01 + 3e-3)
    assert LINK.gather(1e3, 64) == pytest.approx(2 * 0.01 + 63e-3)
    assert LINK.gather(1e3, 2) == pytest.approx(2 * 0.01 + 1e-3)
    slower = LINK._replace(round_trip=0.5)
    assert slower.gather(1e3, 4) == pytest.approx(0.5 + 3e-3)
    assert slower.gather(1e6, 4) == LINK.gather(1e6, 4)


@pytest.mark.parametrize("workers", [2, 3, 4, 8])
@pytest.mark.parametrize("largest", [1 << 14, 1 << 17, 1 << 23])
def test_a_link_is_found_from_its_times(workers, largest):
    """However few messages were timed, directly and round the ring."""
    link = tem_tf.Link(5e6 / 8, 0.05, 0.1)
    sizes = [n for n in measuring._SIZES if n <= largest]
    found = measuring._gather_link({n: link.gather(n, workers) for n in sizes}, workers)
    for size in (1 << 10, 250_000, 1_000_000):
        assert found.gather(size, workers) == pytest.approx(link.gather(size, workers))


def test_one_worker_waits_for_nobody():
    times = np.random.default_rng(0).uniform(size=(1, 50))
    assert waiting_seconds(times, 1) == waiting_seconds(times, 30) == 0


def test_workers_wait_for_the_slowest():
    times = np.array([[1.0, 3.0, 1.0, 3.0], [3.0, 1.0, 3.0, 1.0]])
    assert waiting_seconds(times, 1) == 1.0
    assert waiting_seconds(times, 2) == 0
    assert waiting_seconds(times, 9) == 0
    assert waiting_seconds(np.array([[1.0] * 4, [2.0] * 4]), 9) == 0.5


def test_a_step_has_its_share_of_an_exchange():
    cost = Cost("c", summed=4e6, local=0.5, decoding=0.25, period=10)
    exchange = LINK.reduce(4e6, 4)
    assert cost.step(2.0, LINK, 4) == pytest.approx(2 + (0.5 + 1 + exchange) / 10)
    assert cost.sent(4) == pytest.approx(6 / 4 * 4e6 / 10)
    assert Cost("c", gathered=1e3).sent(4) == 3e3


def test_fragments_travel_beside_arithmetic():
    link = tem_tf.Link(bandwidth=1e6, latency=0.0)
    cost = Cost("c", gathered=1e6, local=0.2, period=10, fragments=5)
    assert cost.pace == 2
    # Each of five pieces of 0.2 MB takes 0.6 s; a step's arithmetic hides 0.5 of it.
    assert cost.step(0.5, link, 4) == pytest.approx(0.5 + 0.02 + 0.1 * 5 / 10)
    assert cost.step(0.7, link, 4) == pytest.approx(0.7 + 0.02)
    whole = Cost("c", gathered=1e6, local=0.2, period=10)
    assert whole.step(0.7, link, 4) == pytest.approx(0.7 + 0.02 + 0.3)


def test_a_further_collective_waits_as_long():
    one, two = (Cost("c", gathered=1e3, collectives=n) for n in (1, 2))
    assert two.exchange(LINK, 4) - one.exchange(LINK, 4) == pytest.approx(2 * 0.01)
    one, two = (Cost("c", summed=1e3, collectives=n) for n in (1, 2))
    assert two.exchange(LINK, 4) - one.exchange(LINK, 4) == pytest.approx(6 * 0.01)


@pytest.mark.parametrize("workers", [2, 4, 16])
def test_both_take_as_long_where_they_break_even(workers):
    dense = Cost(DENSE, summed=4e6)
    cost = Cost("c", gathered=1e5, local=0.02, decoding=0.001)
    bandwidth = break_even_bandwidth(cost, dense, tem_tf.Link(1.0, 1e-3), workers)
    link = tem_tf.Link(bandwidth, 1e-3)
    mine, theirs = (one.step(0.0, link, workers) for one in (cost, dense))
    assert mine == pytest.approx(theirs, rel=1e-3)
    slower = tem_tf.Link(bandwidth / 2, 1e-3)
    assert cost.step(0, slower, workers) < dense.step(0, slower, workers)


def test_what_sends_more_never_breaks_even():
    dense = Cost(DENSE, summed=4e3)
    assert (
        break_even_bandwidth(Cost("c", gathered=1e4), dense, tem_tf.Link(1.0), 4)
        is None
    )
    assert (
        break_even_bandwidth(Cost("c", summed=1e3), dense, tem_tf.Link(1.0), 4)
        == math.inf
    )


@pytest.mark.parametrize("words", [1, 7, 1000, 123_456])
def test_padding_is_what_a_gather_learns(words):
    demand = capacity.next_demand(0, np.int64(words + 1))
    rung = capacity.rung_of(demand)
    assert capacity.padded(words) == int(capacity.capacity_of(rung))


SHAPES = [(300, 100), (100,), (100, 10)]
ENTRIES = 31_100


@pytest.mark.parametrize(
    ("compressor", "options", "summed", "gathered"),
    [
        (tem_tf.TopK(0.01), {}, 0, 4 * capacity.padded(311 + 311 * 12 // 32)),
        (tem_tf.AllEntries(), {"value_dtype": "sign"}, 0, ENTRIES * 1.25 / 8),
        (tem_tf.Identity(), {}, 4 * ENTRIES, 0),
    ],
    ids=["topk", "signs", "dense"],
)
def test_bytes_of_a_way_are_those_that_it_sends(compressor, options, summed, gathered):
    cost = measure_way("way", compressor, SHAPES, **options)
    assert cost.summed == pytest.approx(summed, rel=0.01)  # Numbers beside it.
    assert cost.gathered == pytest.approx(gathered, rel=0.25)
    assert cost.local > 0
    assert cost.decoding == 0 or gathered
    assert cost.collectives == 1


def test_power_sgd_is_summed_twice():
    cost = measure_way("way", tem_tf.PowerSGD(2), SHAPES)
    assert cost.gathered == 0
    assert cost.collectives == 2
    # P of 300 rows and Q of 100, P of 100 and Q of 10, and the bias.
    assert cost.summed == pytest.approx(4 * (2 * 400 + 2 * 110 + 100), rel=0.05)


@pytest.fixture(scope="module")
def trained():
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(50)])
    model.compile("sgd", "mse")
    return model, (np.zeros((8, 20), "float32"), np.zeros((8, 50), "float32"))


def test_a_table(trained):
    link = tem_tf.Link(bandwidth=1e4, latency=1e-4)
    forecast = tem_tf.predict(*trained, link=link, workers=4)
    lines = forecast.table().splitlines()
    assert lines[0].startswith("1,050 parameters, 4 workers;")
    assert "link as given: 0.08 Mbit/s, 0.1 ms; R = " in lines[0]
    assert len(lines) == 3 + len(forecast.costs)
    steps = [forecast.seconds(cost.name) for cost in forecast.costs]
    # So slow a link: what sends a hundredth is sooner, dense is the last or nearly.
    assert lines[2].startswith("local steps, H 30")
    assert forecast.seconds(DENSE) > 10 * min(steps)
    assert forecast.seconds(DENSE, 1024) > forecast.seconds(DENSE)
    link = forecast.gather_link.bandwidth
    for name in (cost.name for cost in forecast.costs):
        assert forecast.over_workers(name, [4]) == [forecast.seconds(name)]
        assert forecast.over_bandwidths(name, [link]) == [forecast.seconds(name)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "`predict` needs several workers, or `workers` and `link`"),
        ({"workers": 4}, "`link` must be given where there is one worker"),
        ({"workers": 4, "link": tem_tf.Link(0.0)}, "a bandwidth above 0"),
        ({"workers": 4, "link": tem_tf.Link(1.0, -1.0)}, "a latency of at least 0"),
        ({"workers": 1, "link": LINK}, "`predict` needs several workers"),
    ],
)
def test_what_cannot_be_predicted(trained, arguments, words):
    with pytest.raises(ValueError, match=words):
        tem_tf.predict(*trained, **arguments)
