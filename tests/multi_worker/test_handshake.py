"""Law 10: what workers must not differ in is named on all of them, before any step."""

import dataclasses

import keras
import numpy as np
import pytest

import tem_tf
from tests.multi_worker import handshake_laws as laws
from tests.multi_worker.handshake_laws import Worker

USUAL = Worker()
QUOTES = "a.] 'b' \"c\". Nothing was trained. é"


def sgd(**arguments):
    return {"class_name": "SGD", "config": {"learning_rate": 0.01, **arguments}}


def learns(learning_rate):
    """A configuration, which can be sent, of an SGD with this learning rate."""
    serialized = keras.saving.serialize_keras_object(learning_rate)
    return sgd(learning_rate=serialized)


def decay(steps):
    return learns(keras.optimizers.schedules.ExponentialDecay(0.1, steps, 0.9))


def of_option(**options):
    return dataclasses.replace(USUAL, options=options)


# What the last worker does otherwise, and what all are told of it: the name, the
# usual value and the other.
DIFFER = {
    "compressor": (
        Worker(compressor=tem_tf.RandomK(0.5)),
        "`compressor`",
        "TopK(density=None, k=1, scope='layer', per_block=None, block=4096)",
        "RandomK(density=0.5, seed=0)",
    ),
    "argument": (Worker(compressor=tem_tf.TopK(k=2)), "`compressor`", "k=1", "k=2"),
    "long argument": (
        Worker(compressor=tem_tf.TopKSchedule([*range(500), 7, 1])),
        "`compressor`",
        "TopK(",
        "TopKSchedule(counts=[0, 1",
    ),
    "memory": (of_option(memory=None), "`memory`", "'auto'", "None"),
    "memory's argument": (
        of_option(memory=tem_tf.EF21SGDM(0.2)),
        "`memory`",
        "'auto'",
        "EF21SGDM(momentum=0.2)",
    ),
    "dense_below": (of_option(dense_below=2), "`dense_below`", "0", "2"),
    "warmup_steps": (of_option(warmup_steps=2), "`warmup_steps`", "0", "2"),
    "value_dtype": (
        of_option(value_dtype="bfloat16"),
        "`value_dtype`",
        "'float32'",
        "'bfloat16'",
    ),
    "nonfinite": (of_option(nonfinite="zero"), "`nonfinite`", "'raise'", "'zero'"),
    "loss_scale": (of_option(loss_scale=2.0), "`loss_scale`", "None", "2.0"),
    "accumulation": (of_option(accumulate_steps=2), "`accumulate_steps`", "1", "2"),
    "local_clipnorm": (of_option(local_clipnorm=2.0), "`local_clipnorm`", "None", "2"),
    "exact_payload": (
        of_option(exact_payload=True),
        "`exact_payload`",
        "False",
        "True",
    ),
    "masks": (
        of_option(masks={"a": [1, 0, 1]}),
        "`masks`",
        "none",
        "Masks(masks: 2 of",
    ),
    "division": (
        of_option(gradients_divided_by_replicas=False),
        "`gradients_divided_by_replicas`",
        "True",
        "False",
    ),
    "inner": (Worker(inner="Adam"), "`inner_optimizer`", "SGD", "Adam"),
    "inner's argument": (
        Worker(inner=sgd(momentum=0.5)),
        "`inner_optimizer.momentum`",
        "0.0",
        "0.5",
    ),
    "number": (Worker(trained=(0,)), "trained variable 1", "b [3] float32", "none"),
    "name": (
        Worker(names=("a", QUOTES, "c", "d")),
        "trained variable 1",
        "b [3] float32",
        f"{QUOTES} [3] float32",
    ),
    "dtype": (
        Worker(trained=(0, 2)),
        "trained variable 1",
        "b [3] float32",
        "c [3] float64",
    ),
    "shape": (
        Worker(trained=(0, 3)),
        "trained variable 1",
        "b [3] float32",
        "d [2] float32",
    ),
    "order": (
        Worker(trained=(1, 0)),
        "trained variable 0",
        "a [3] float32",
        "b [3] float32",
    ),
    "version": (Worker(version="9"), "`tem_tf`", repr(tem_tf.__version__)[1:-1], "9"),
}
WORKERS_OF = {2: "workers 0 | 1", 3: "workers 0, 1 | 2"}


def row_of(other, size):
    return [USUAL] * (size - 1) + [other]


def assert_named(said, name, usual, other, size):
    """All are told what differs, and whose is what."""
    assert said.startswith(
        laws_begin := "Workers must train the same model in the same"
    )
    assert said.count(laws_begin) == 1
    assert name in said
    for i in range(size):
        value = usual if i < size - 1 else other
        assert (
            f"worker {i}: {value}" in said
            or value in said.partition(f"worker {i}: ")[2].partition("worker")[0]
        )


def test_each_difference_is_named_on_all_workers_and_they_can_go_on(workers):
    """Of all rows one after the other, with a right training at the end."""
    rows = [row_of(other, workers.size) for other, *_ in DIFFER.values()]
    rows.append([USUAL] * workers.size)
    results = workers.run(laws.at_build, rows)
    assert all(result == results[0] for result in results)
    *differing, right = results[0]
    assert right == ("", True)
    for (said, moved), (_, *expected) in zip(differing, DIFFER.values(), strict=True):
        assert_named(said, *expected, workers.size)
        assert said.endswith("Nothing was trained.")
        assert said.count("`") == (2 if "`" in expected[0] else 0), said
        assert not moved


def test_only_what_differs_is_named_where_lists_are_long(two_workers):
    """Two compressors whose texts differ after thousands of characters."""
    counts = list(range(1000))
    row = [
        Worker(compressor=tem_tf.TopKSchedule([*counts, last, *counts]))
        for last in (7777, 8888)
    ]
    for ((said, _),) in two_workers.run(laws.at_build, [row]):
        assert "999, 7777, 0" in said and "999, 8888, 0" in said
        assert len(said) < 500


def test_schedules_are_compared_by_their_arguments(two_workers):
    row = [Worker(inner=decay(steps)) for steps in (10, 20)]
    for ((said, moved),) in two_workers.run(laws.at_build, [row]):
        assert "`inner_optimizer.learning_rate` (worker 0: Exponential" in said
        assert "decay_steps=10" in said and "decay_steps=20" in said
        assert not moved


def test_numbered_names_count_and_the_error_says_how_to_mend_it(two_workers):
    row = [
        Worker(names=tuple(f"dense_{i}" for i in numbers))
        for numbers in ((0, 1, 2, 3), (2, 3, 4, 5))
    ]
    for ((said, moved),) in two_workers.run(laws.at_build, [row]):
        assert "worker 0: dense_0 [3] float32, worker 1: dense_2 [3] float32" in said
        assert "give layers names, or call `keras.utils.clear_session()`" in said
        assert not moved


def test_two_heads_of_one_size_are_told_apart(workers):
    """Each worker trains another; all of them make both."""
    row = [Worker(trained=(0,))] * (workers.size - 1) + [Worker(trained=(1,))]
    for ((said, moved),) in workers.run(laws.at_build, [row]):
        last = workers.size - 1
        assert "trained variable 0 (worker 0: a [3] float32" in said
        assert f"worker {last}: b [3] float32)" in said
        assert not moved


def test_initial_weights_are_compared_bit_for_bit(workers):
    row = row_of(
        Worker(weights=np.nextafter(np.float32(1), np.float32(2))), workers.size
    )
    same = [Worker(weights=np.nan)] * workers.size
    for (said, moved), nan in workers.run(laws.at_build, [row, same]):
        for name in ("a", "b"):
            expected = f"the initial values of {name} [3] float32"
            assert f"{expected} ({WORKERS_OF[workers.size]})" in said
        assert not moved
        assert nan[0] == ""


ALIKE = {
    "usual": [USUAL] * 2,
    "identity": [Worker(compressor=tem_tf.Identity())] * 2,
    "objects without a text": [Worker(compressor=laws.Own(2))] * 2,
    "memory without a text": [of_option(memory=laws.Plain())] * 2,
    "names of optimizers": [Worker(inner=sgd(name=name)) for name in ("a", "b")],
    "numpy's numbers": [
        Worker(
            inner=sgd(momentum=number(0.5)),
            options={"memory": tem_tf.DecayingErrorFeedback(number(0.5))},
            compressor=tem_tf.HardThreshold(number(0.5)),
        )
        for number in (float, np.float64)
    ],
    "schedule": [Worker(inner=decay(10))] * 2,
    "function": [Worker(inner=laws.rates_by_a_function)] * 2,
    "lambda": [Worker(inner=laws.rates_by_a_lambda)] * 2,
    "schedule that is never saved": [Worker(inner=laws.rates_never_saved)] * 2,
}


def test_what_is_alike_is_not_refused(two_workers):
    for results in two_workers.run(laws.at_build, list(ALIKE.values())):
        assert dict(zip(ALIKE, results, strict=True)) == dict.fromkeys(
            ALIKE, ("", True)
        )


def test_trainings_one_after_the_other_and_from_a_file(two_workers):
    one, other = two_workers.run(laws.again_with_other_variables)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_identity_without_memory_takes_part(two_workers):
    row = [Worker(compressor=tem_tf.Identity()), USUAL]
    for ((said, _),) in two_workers.run(laws.at_build, [row]):
        assert "`compressor` (worker 0: Identity(), worker 1: TopK(" in said


def test_workers_that_would_ask_differently_are_told(two_workers):
    """They would wait for one another for ever."""
    row = [Worker(compressor=laws.AsksOften(times)) for times in (1, 2)]
    for ((said, moved),) in two_workers.run(laws.at_build, [row]):
        assert "`rounds` (worker 0: shared (0,), Sum of [float32 (3,), float" in said
        assert not moved


def test_nothing_of_it_is_paid_after_the_first_step(two_workers):
    """What a later handshake would refuse is not seen, and none stands in the step."""
    one, other = two_workers.run(laws.differing_later)
    np.testing.assert_array_equal(one[0], other[0] - 1)
    for _, (always, branches) in (one, other):
        assert [kind for kind, _ in always] == ["CollectiveGatherV2"]
        # The second gather of the step, and the handshake's three.
        assert len(branches) == 4


@pytest.mark.parametrize(
    ("row", "late", "named"),
    [
        ([USUAL, Worker(compressor=tem_tf.TopK(k=2))], None, ["`compressor`", "k=2"]),
        ([USUAL, Worker(names=("a", QUOTES, "c", "d"))], None, ["trained variable 1"]),
        ([USUAL, USUAL], "iterations", ["`iterations` (worker 0: 0, worker 1: 7)"]),
        (
            [USUAL, USUAL],
            "weights",
            ["the initial values of a [3] float32 (workers 0 |"],
        ),
    ],
    ids=["compressor", "name", "iterations", "weights"],
)
def test_a_difference_seen_within_the_first_step_ends_it(two_workers, row, late, named):
    for said, moved in two_workers.run(laws.in_a_step, row, late):
        assert said.startswith("InvalidArgumentError")
        for words in ["Workers must train", *named, "Nothing was trained."]:
            assert words in said
        assert not moved


@pytest.mark.parametrize("law", [laws.in_fit, laws.in_a_step])
def test_a_worker_without_the_wrapper_ends_all(two_workers, law):
    """Both end, within seconds, whoever comes first; at build in words of ours."""
    row = [USUAL, Worker(wrapped=False)]
    try:
        (said, moved), (theirs, also) = two_workers.run(law, row)
    finally:
        two_workers.stop()  # Their collectives are out of step.
    assert "ollective" in theirs
    if law is laws.in_fit:
        assert "has it no SparsifiedOptimizer, or another model?" in said
    assert "ollective" in said
    assert not moved and not also


def test_in_fit_a_difference_ends_all_workers(workers):
    """All say the same, that of a handshake before the first step."""
    other = Worker(inner=sgd(momentum=0.5))
    last = workers.size - 1
    for said, moved in workers.run(laws.in_fit, row_of(other, workers.size)):
        assert said.startswith("ValueError: Workers must")
        assert "`inner_optimizer.momentum` (worker 0: 0.0" in said
        assert f"worker {last}: 0.5)" in said
        assert not moved
