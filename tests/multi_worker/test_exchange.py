"""One collective per step between real workers, whatever the payloads' lengths are."""

import numpy as np
import pytest

import tem_tf
from tem_tf.capacity import LADDER
from tem_tf.gathers import DIRECT_BYTES
from tests.multi_worker import laws
from tests.steps import dyadic

SGD = {"class_name": "SGD", "config": {"learning_rate": 0.1, "momentum": 0.9}}


def capacity(words):
    return min(c for c in LADDER if c >= words)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "loop_in_a_graph"])
@pytest.mark.parametrize("demand", [0, 50, None], ids=["learnt", "roomy", "exact"])
def test_all_arrives_whatever_room_there_was(workers, demand, graph):
    """Lengths that jump up, fall, differ between workers and are 0 on some or all."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 60, (12, workers.size))
    lengths[[2, 6]] *= 20
    lengths[4] = 0
    lengths[8] = 0
    lengths[8, -1] = 700
    results = workers.run(laws.gather, lengths, demand, graph)
    for rows, _, _, demands in results:
        expected = np.arange(rows.shape[2]) < lengths[:, :, np.newaxis]
        np.testing.assert_array_equal(rows, 7 * expected)
        np.testing.assert_array_equal(demands, results[0][-1])


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "loop_in_a_graph"])
def test_all_arrives_directly_and_round_a_ring(three_workers, graph):
    """Of what goes directly, a little less and a little more, and lengths that jump."""
    most = DIRECT_BYTES // 2 // 4
    few, many = most * 7 // 10, most * 12 // 10
    lengths = np.array([[9, 9, few], [few, few, few], [few, 0, few], [9, many, 0]] * 6)
    for rows, _, _, _ in three_workers.run(laws.gather, lengths, 0, graph):
        expected = np.arange(rows.shape[2]) < lengths[:, :, np.newaxis]
        np.testing.assert_array_equal(rows, 7 * expected)


def test_a_known_length_says_how_it_goes(three_workers):
    """Float64: 80 kB from each of two others are too many."""
    for numbers, kind in [
        (100, "CollectiveAllToAllV2"),
        (10_000, "CollectiveGatherV2"),
    ]:
        for always, sometimes in three_workers.run(laws.gather_numbers, numbers):
            assert [found for found, _ in always] == [kind]
            assert not sometimes


def test_a_learnt_length_goes_one_of_two_ways(three_workers):
    """For the first collective of a step, and for the second."""
    for always, in_branches in three_workers.run(
        laws.collectives, tem_tf.HardThreshold(0.1), 1000
    ):
        assert not always
        kinds = [kind for kind, _ in in_branches]
        # And the handshake's: words as plain TensorFlow's would go, texts of which the
        # first collective has room for one word.
        assert kinds.count("CollectiveGatherV2") == 2 + 1 + 1
        assert kinds.count("CollectiveAllToAllV2") == 2 + 1 + 1
        assert len(kinds) == 8


def test_a_steady_volume_takes_one_collective_with_little_padding(two_workers):
    lengths = np.random.default_rng(0).integers(950, 1000, (40, 2))
    for _, padding, overflows, demands in two_workers.run(
        laws.gather, lengths, 0, True
    ):
        # At the first step nothing is known yet.
        assert overflows.tolist() == [1] + [0] * 39
        assert padding[1:].max() < 1.25 * 1000 - 950
        assert demands[-1] >= 1001


def test_padding_is_counted_to_the_word(two_workers):
    lengths = np.array([[10, 100], [10, 10]])
    for worker, (_, padding, overflows, demands) in enumerate(
        two_workers.run(laws.gather, lengths, 0, False)
    ):
        # First one word, the length, then the rest; the second step has room.
        first = 1 + capacity(100) - lengths[0, worker]
        assert demands[0] == 101 + 101 // 8
        second = capacity(113) - 10
        assert padding.tolist() == [first, second]
        assert overflows.tolist() == [1, 0]


def test_the_result_does_not_depend_on_how_sizes_are_agreed(workers):
    """Bit for bit, though the volume jumps: λ is reached by all at the same steps."""
    gradients = np.round(dyadic(12, workers.size, 24) / 4, 2)
    gradients[6] *= 64
    threshold = tem_tf.HardThreshold(3.0)
    runs = {
        exact: workers.run(
            laws.exchange, gradients, threshold, {"exact_payload": exact}
        )
        for exact in (False, True)
    }
    for learnt, exact in zip(runs[False], runs[True], strict=True):
        for key in ("weights", "residual"):
            np.testing.assert_array_equal(learnt[key], exact[key])
        ours, theirs = learnt["summary"], exact["summary"]
        assert ours["payload_bytes"] == theirs["payload_bytes"]
        assert ours["overflow_steps"] < theirs["overflow_steps"] == 12


def test_forget_forgets_the_learnt_size(two_workers):
    gradients = dyadic(3, 2)
    for first, second in two_workers.run(laws.twice, gradients, 0.5):
        assert first == second


@pytest.mark.parametrize(
    "compressors",
    [
        (tem_tf.HardThreshold(1.0), tem_tf.HardThreshold(2.0)),
        (tem_tf.TopK(k=5, scope="model"), tem_tf.TopK(k=5, scope="model")),
        (tem_tf.RandomK(0.5), tem_tf.RandomK(0.5)),
    ],
    ids=lambda pair: type(pair[0]).__name__,
)
def test_two_optimizers_of_one_step_do_not_mix(workers, compressors):
    """Though their payloads have one length, and so one rung of the ladder."""
    gradients = np.random.default_rng(0).choice([-3.0, 3.0], (2, workers.size, 24))
    gradients[1] *= 4
    together = workers.run(laws.two_in_one_step, gradients, compressors, 6)
    for i, compressor in enumerate(compressors):
        steps = np.tile(gradients[i], (6, 1, 1))
        alone = workers.run(laws.exchange, steps, compressor, {})
        for both, one in zip(together, alone, strict=True):
            np.testing.assert_array_equal(both[:, i], one["weights"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "compressor",
    [
        tem_tf.HardThreshold(0.05),
        tem_tf.RandomK(0.2),
        pytest.param(tem_tf.Identity(), marks=pytest.mark.exhaustive),
    ],
    ids=lambda compressor: type(compressor).__name__,
)
def test_steps_per_execution_does_what_single_steps_do(two_workers, compressor):
    """Thirteen steps over three epochs in calls of three: the last one is shorter."""
    wrap = {"compressor": compressor}
    single = two_workers.run(laws.fit, SGD, wrap, 208)
    several = two_workers.run(laws.fit, SGD, wrap, 208, (), 3)
    for one, many in zip(single, several, strict=True):
        for key in ("weights", "optimizer"):
            for a, b in zip(one[key], many[key], strict=True):
                np.testing.assert_array_equal(a, b)
        assert one["history"] == many["history"]
        assert one["summary"] == many["summary"]
