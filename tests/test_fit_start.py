"""What workers say when `fit` begins, and what is said of it, without workers."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tem_tf import _fit_internals, fit_start

POLICIES = tf.data.experimental.AutoShardPolicy


@pytest.fixture(autouse=True)
def no_common_seed():
    """As in a script that sets none."""
    tf.random.set_seed(None)
    yield
    tf.random.set_seed(None)


def rows(policy=None):
    """Ten rows in memory."""
    return with_policy(tf.data.Dataset.from_tensor_slices(np.arange(10)), policy)


def with_policy(dataset, policy):
    options = tf.data.Options()
    if policy is not None:
        options.experimental_distribute.auto_shard_policy = policy
    return dataset.with_options(options)


def lines(tmp_path):
    """Those of a text file."""
    path = tmp_path / "lines.txt"
    path.write_text("1\n2\n")
    return tf.data.TextLineDataset([str(path)])


def call(data=None, epochs=1, steps_per_epoch=None, batches=None):
    """A `fit` that begins."""
    data = data or types.SimpleNamespace(
        steps_per_epoch=steps_per_epoch, _num_batches=batches
    )
    return _fit_internals.Call("fit", None, data, None, epochs, is_validation=False)


def worker(steps=(3, None, True), shuffles=(), function="fit", epochs=1):
    """What one of them says."""
    return {
        "call": function,
        "epochs": epochs,
        "steps": list(steps),
        "shuffles": [list(pair) for pair in shuffles],
    }


@pytest.mark.parametrize("policy", [None, POLICIES.DATA, POLICIES.AUTO])
@pytest.mark.parametrize("seed", [None, 7])
def test_a_shuffle_is_found_wherever_it_stands(policy, seed):
    shuffled = rows(policy).shuffle(4, seed=seed).batch(2).prefetch(1)
    expected = (0, 0) if seed is None else tf.compat.v1.get_seed(seed)
    expected = tuple(int(part or 0) for part in expected)
    assert _fit_internals.dataset_shuffle_seeds(shuffled) == [expected]
    zipped = tf.data.Dataset.zip((shuffled, rows())).map(lambda a, b: a + b)
    assert _fit_internals.dataset_shuffle_seeds(zipped) == [expected]


def test_a_common_seed_is_one_of_shuffles_too():
    seeds = []
    for _ in range(2):
        keras.utils.set_random_seed(5)
        shuffled = rows().shuffle(4)
        seeds += _fit_internals.dataset_shuffle_seeds(shuffled)
    assert seeds[0] == seeds[1]
    assert any(seeds[0])


def test_shuffles_that_the_user_answers_for_are_left_out(tmp_path):
    shuffle = {"buffer_size": 4}
    for dataset in (
        rows(),
        rows(POLICIES.OFF).shuffle(**shuffle),
        rows(POLICIES.FILE).shuffle(**shuffle),
        rows().shard(2, 0).shuffle(**shuffle),
        # Whose files each worker has for itself.
        lines(tmp_path).shuffle(**shuffle),
        rows().shuffle(**shuffle).interleave(lambda _: lines(tmp_path)),
    ):
        assert _fit_internals.dataset_shuffle_seeds(dataset) == []
    by_rows = with_policy(lines(tmp_path), POLICIES.DATA).shuffle(**shuffle)
    assert _fit_internals.dataset_shuffle_seeds(by_rows) == [(0, 0)]


@pytest.mark.parametrize("shuffle", [True, "batch", False])
@pytest.mark.parametrize("seed", [None, 3])
def test_arrays_are_shuffled_by_the_common_seed(shuffle, seed):
    if seed is not None:
        tf.random.set_seed(seed)
    x = np.zeros([4, 1])
    adapter = keras.src.trainers.data_adapters.get_data_adapter(x, shuffle=shuffle)
    data = types.SimpleNamespace(data_adapter=adapter)
    expected = [(seed or 0, 0)] if shuffle else []
    assert fit_start.shuffles_of(call(data), adapter.get_tf_dataset()) == expected


def test_data_that_the_user_has_distributed_is_not_looked_into():
    assert fit_start.shuffles_of(call(), None) == []


@pytest.mark.parametrize(
    ("seeds", "shown"),
    [
        ([[(0, 0)], [(0, 0)]], "worker 0: [None], worker 1: [None]"),
        ([[(0, 1)], [(0, 2)]], "worker 0: [(0, 1)], worker 1: [(0, 2)]"),
        ([[(0, 1)], []], "worker 0: [(0, 1)], worker 1: []"),
        ([[(0, 1), (0, 0)]] * 2, "worker 0: [(0, 1), None], worker 1: [(0, 1), None]"),
    ],
)
def test_the_complaint_of_shuffles_names_their_seeds(seeds, shown):
    workers = [worker(shuffles=one) for one in seeds]
    assert fit_start.shuffle_complaint(workers) == (
        "`shuffle` must have the same seed on all workers: each shuffles all data, and "
        "takes its share of an order of its own, so that of two workers an epoch "
        "misses a quarter of the rows and sees others twice. Received seeds: "
        f"{shown}. Call keras.utils.set_random_seed(seed), the same on all workers, "
        "before the data is made, or Dataset.shuffle(..., seed=seed)."
    )


def test_common_seeds_and_no_shuffles_are_no_complaint():
    for seeds in ([], [(0, 1)], [(1, 0), (2, 3)]):
        assert fit_start.shuffle_complaint([worker(shuffles=seeds)] * 2) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"batches": 4}, [4, None, True]),
        ({}, [None, None, True]),
        ({"steps_per_epoch": 2, "batches": 4, "epochs": 9}, [2, None, True]),
        ({"steps_per_epoch": 3, "batches": 7, "epochs": 2}, [3, None, True]),
        ({"steps_per_epoch": 3, "batches": 7, "epochs": 3}, [3, 7, True]),
    ],
)
def test_a_worker_says_when_its_epochs_end(given, expected):
    assert fit_start.steps_of(call(**given), rows()) == expected
    endless = [*expected[:2], False]
    assert fit_start.steps_of(call(**given), rows().repeat()) == endless


def test_data_that_is_distributed_says_its_number_itself():
    data = types.SimpleNamespace(
        steps_per_epoch=2,
        _num_batches=None,
        _distributed_dataset=types.SimpleNamespace(
            cardinality=np.int64(tf.data.INFINITE_CARDINALITY)
        ),
    )
    assert fit_start.steps_of(call(data), None) == [2, None, False]


def test_workers_that_say_the_same_pass():
    for steps in ([3, None, True], [None, None, True], [3, 5, False]):
        fit_start.require_same_steps([worker(steps)] * 3, "`x` of `fit`")


@pytest.mark.parametrize(
    ("steps", "shown"),
    [
        ([3, None, True], "3 batches"),
        ([None, None, True], "batches until they end"),
        ([3, 5, True], "3 batches of data that ends after 5"),
        ([3, None, False], "3 batches of data without an end"),
    ],
)
def test_unequal_steps_are_refused_in_words(steps, shown):
    with pytest.raises(ValueError, match="as many batches on all workers") as caught:
        fit_start.require_same_steps(
            [worker([1, None, True]), worker(steps)], "`x` of `evaluate`"
        )
    assert str(caught.value).startswith("`x` of `evaluate` must have")
    assert f"worker 0: 1 batches, worker 1: {shown}. Give" in str(caught.value)
