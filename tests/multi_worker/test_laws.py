"""The laws of aggregation on two and three real worker processes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf import wire
from tests import places
from tests.compressor_cases import ALL, COMPRESSORS, EveryOther, rounding_of
from tests.memory_cases import ErrorFeedback21
from tests.multi_worker import laws
from tests.multi_worker.harness import WorkerError
from tests.native_cases import bits, needs_native
from tests.same_bits import FEW
from tests.steps import dyadic

SGD = {"class_name": "SGD", "config": {"learning_rate": 0.1, "momentum": 0.9}}
ADAM = {"class_name": "Adam", "config": {"learning_rate": 0.01}}


def on_all(results, key):
    return np.array([result[key] for result in results])


@pytest.mark.parametrize("compressor", ALL.values(), ids=ALL)
def test_workers_stay_bit_equal_and_nothing_is_lost(workers, compressor):
    """Laws 1, 4 and 6; k = 0 on all workers is among the compressors.

    So are messages with a code of their own, two sums, and a broadcast and a sum.
    """
    gradients = dyadic(3, workers.size)
    results = workers.run(laws.exchange, gradients, compressor, {})
    weights = on_all(results, "weights")
    for other in weights[1:]:
        np.testing.assert_array_equal(other, weights[0])
    held = on_all(results, "residual")
    if held.any():
        assert not np.array_equal(held[0], held[1])
    total = gradients.sum(axis=(0, 1))
    found = held.sum(axis=0) - weights[0, -1]
    np.testing.assert_allclose(found, total, rtol=0, atol=rounding_of(compressor))


def test_one_worker_may_send_nothing_or_everything(workers):
    gradients = np.zeros((3, workers.size, 6))
    gradients[0, -1, 2] = 4.0
    gradients[2, 0] = 4.0
    results = workers.run(laws.exchange, gradients, tem_tf.HardThreshold(1.0), {})
    expected = np.zeros((3, 6))
    expected[:, 2] = -4.0
    expected[2] -= 4.0
    for result in results:
        np.testing.assert_array_equal(result["weights"], expected)
        assert result["summary"]["entries_sent"] == 7
        # A bitmap and one value, then six values without indices.
        words = 3 * workers.size * wire.HEADER_WORDS + 2 + 6
        assert result["summary"]["payload_bytes"] == 4 * words


@pytest.mark.parametrize(
    ("compressor", "options"),
    [
        (EveryOther(), {"memory": None}),
        (tem_tf.TopK(k=2), {"memory": ErrorFeedback21()}),
        (COMPRESSORS["hard_threshold"], {"dense_below": 5}),
        (COMPRESSORS["random_k"], {"dense_below": 5}),
        (COMPRESSORS["hard_threshold"], {"warmup_steps": 2}),
        (COMPRESSORS["random_k"], {"warmup_steps": 2}),
        (COMPRESSORS["topk_model"], {"local_clipnorm": 1.0}),
        (COMPRESSORS["hard_threshold"], {"value_dtype": "float16"}),
        (COMPRESSORS["random_k"], {"value_dtype": "bfloat16", "warmup_steps": 2}),
    ],
    ids=lambda value: None if isinstance(value, dict) else type(value).__name__,
)
def test_several_processes_do_what_several_devices_do(two_workers, compressor, options):
    """The same weights and counts as MirroredStrategy, which takes other branches."""
    from tests.steps import apply_gradients
    from tests.training import make_strategy

    gradients = dyadic(4, 2)
    expected, optimizer = apply_gradients(
        make_strategy(2), gradients, compressor, **options
    )
    wanted = optimizer.communication_summary()
    for result in two_workers.run(laws.exchange, gradients, compressor, options):
        np.testing.assert_array_equal(result["weights"], expected[:, 0])
        for key in ("entries_sent", "payload_bytes", "dense_bytes", "total_error"):
            assert result["summary"][key] == wanted[key]


@needs_native
@pytest.mark.parametrize(
    ("compressor", "options"),
    [
        (COMPRESSORS["hard_threshold"], {"dense_below": 5}),
        (COMPRESSORS["topk_layer"], {}),
        (COMPRESSORS["topk_model"], {}),
        (COMPRESSORS["random_k"], {}),
    ],
    ids=lambda value: None if isinstance(value, dict) else type(value).__name__,
)
def test_workers_without_native_kernels_do_the_same(two_workers, compressor, options):
    gradients = np.random.default_rng(0).normal(size=(4, 2, 60))
    arguments = gradients, compressor, options
    wanted = two_workers.run(laws.exchange, *arguments)
    for without in ([1], [0, 1]):
        found = two_workers.run(laws.exchange_by_operations, *arguments, without)
        for ours, theirs in zip(found, wanted, strict=True):
            for key in ("weights", "residual"):
                np.testing.assert_array_equal(bits(ours[key]), bits(theirs[key]))
            for key in ("entries_sent", "payload_bytes", "dense_bytes"):
                assert ours["summary"][key] == theirs["summary"][key]


@pytest.mark.parametrize(
    ("inner", "compressor"),
    [(ADAM, tem_tf.Identity()), (SGD, tem_tf.HardThreshold(1e-30))],
    ids=["adam-identity", "sgd-tiny-threshold"],
)
def test_fit_without_loss_is_plain_keras_bit_for_bit(two_workers, inner, compressor):
    """Law 3. For two workers, since the addition of two floats commutes."""
    plain = two_workers.run(laws.fit, inner, None)
    wrapped = two_workers.run(laws.fit, inner, {"compressor": compressor})
    for ours, theirs in zip(wrapped, plain, strict=True):
        for key in ("weights", "optimizer"):
            for a, b in zip(ours[key], theirs[key], strict=True):
                np.testing.assert_array_equal(a, b)
        assert ours["history"] == theirs["history"]


def test_identity_is_plain_keras_to_rounding_with_three_workers(three_workers):
    plain = three_workers.run(laws.fit, SGD, None)
    wrap = {"compressor": tem_tf.HardThreshold(1e-30)}
    for ours, theirs in zip(three_workers.run(laws.fit, SGD, wrap), plain, strict=True):
        for a, b in zip(ours["weights"], theirs["weights"], strict=True):
            # Twelve steps of sums of three in another order.
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_fit_evaluate_and_predict_agree_on_all_workers_and_runs(workers):
    """Laws 4 and 8, with validation, metrics, and data that does not divide evenly."""
    wrap = {"compressor": tem_tf.HardThreshold(0.05)}
    results = workers.run(laws.fit, SGD, wrap, 59)
    again = workers.run(laws.fit, SGD, wrap, 59)
    for result in (*results[1:], *again):
        for key in ("weights", "optimizer"):
            for a, b in zip(result[key], results[0][key], strict=True):
                np.testing.assert_array_equal(a, b)
        assert result["summary"] == results[0]["summary"]
    assert set(results[0]["history"]) == {
        "accuracy",
        "loss",
        "val_accuracy",
        "val_loss",
    }
    assert results[0]["history"]["val_accuracy"][-1] > 0.5
    assert 0 < results[0]["summary"]["density"] < 0.9


def test_custom_training_loop(workers):
    size = workers.size
    expected = np.float32([1, 2, 3, 4]) - np.float32([1, 6, 0, -2]) * size
    for results in workers.run(laws.custom_loop, tem_tf.HardThreshold(0.5)):
        for weights in results:
            np.testing.assert_array_equal(weights, expected)


def test_a_sparsifiers_step_has_one_collective_and_no_dense_one(two_workers):
    """A second one stands in a branch, taken where a payload finds no room."""
    size = 1000
    for compressor, kind, branches in [
        (tem_tf.HardThreshold(0.1), "CollectiveGatherV2", 1),
        (tem_tf.TopK(density=0.01), "CollectiveGatherV2", 1),
        (tem_tf.RandomK(0.01), "CollectiveReduceV2", 0),
    ]:
        for always, in_branches in two_workers.run(laws.collectives, compressor, size):
            assert [found for found, _ in always] == [kind]
            kinds = [found for found, _ in in_branches]
            # Three are the handshake's, at the first step.
            assert kinds.count("CollectiveGatherV2") == 3 + branches
            assert len(kinds) == 3 + branches
            for _, shape in always + in_branches:
                assert size not in shape
    for always, _ in two_workers.run(laws.collectives, None, size):  # Plain Keras has.
        assert [size] in [shape for _, shape in always]


def test_gradients_of_other_dtypes_are_summed_whole(workers):
    """Double precision, which a cast would round, beside what is compressed."""
    expected = sum((rank + 1) * (1 + 2.0**-40) for rank in range(workers.size))
    for double, complex_numbers, single in workers.run(laws.other_dtypes):
        np.testing.assert_array_equal(double, [expected, workers.size])
        np.testing.assert_array_equal(complex_numbers, [1j * workers.size])
        np.testing.assert_array_equal(single, [0.0, 2.0 * workers.size])


def test_nan_on_one_worker_ends_all_workers(workers):
    with pytest.raises(WorkerError) as error:
        workers.run(laws.nan_in_fit, workers.size - 1)
    assert set(error.value.failures) == set(range(workers.size))
    for failure in error.value.failures.values():
        assert "A gradient has NaN or Inf" in failure


def test_different_settings_end_all_workers_with_the_difference_named(workers):
    same = {"seed": 1, "threshold": 0.1}
    workers.run(laws.require_same, per_worker=[same] * workers.size)
    other = {"seed": 1, "threshold": 0.2, "name": "é"}
    settings = [same] * (workers.size - 1) + [other]
    with pytest.raises(WorkerError) as error:
        workers.run(laws.require_same, per_worker=settings)
    assert set(error.value.failures) == set(range(workers.size))
    for failure in error.value.failures.values():
        assert "`threshold` (worker 0: 0.1" in failure
        assert f"worker {workers.size - 1}: 0.2" in failure
        assert "`name`" in failure
        assert "`seed`" not in failure


def test_tensorboard_callback_is_written_by_the_chief_alone(two_workers, tmp_path):
    callback = (
        tem_tf.TensorBoardSparsification,
        {"log_dir": str(tmp_path), "every": 2},
    )
    wrap = {"compressor": tem_tf.HardThreshold(0.05)}
    two_workers.run(laws.fit, SGD, wrap, 64, [callback])
    assert len(list(tmp_path.rglob("events*"))) == 1


@pytest.mark.parametrize("loop", places.LOOPS)
@pytest.mark.parametrize("outside", places.WORKS.values(), ids=places.WORKS)
def test_what_works_outside_the_scope_works_wholly(
    two_workers, outside, loop, tmp_path
):
    arguments = outside, loop, keras.optimizers.Adam, str(tmp_path)
    for results in two_workers.run(places.train, *arguments):
        places.assert_whole(results)


@pytest.mark.parametrize("loop", places.LOOPS)
@pytest.mark.parametrize("outside", places.REFUSED.values(), ids=places.REFUSED)
def test_what_cannot_work_outside_the_scope_is_refused_by_all(
    two_workers, outside, loop
):
    arguments = outside, loop, keras.optimizers.SGD
    for results in two_workers.run(places.train, *arguments):
        assert places.REFUSAL in results["refused"]
        assert results["untouched"]


@pytest.mark.parametrize("compressor", [tem_tf.Identity(), tem_tf.HardThreshold(0.1)])
@pytest.mark.parametrize("execution", [1, 3])
def test_all_workers_record_alike_on_data_of_unknown_length(
    two_workers, compressor, execution, tmp_path
):
    """Fourteen steps per epoch; Keras counts an execution of two as one of three."""
    arguments = compressor, execution, str(tmp_path)
    one, other = two_workers.run(laws.records_of_unknown_length, *arguments)
    assert one == other
    assert one["last"] == 28
    expected = {1: [0, 5, 10, 15, 20, 25, 28], 3: [0, 6, 12, 14, 17, 20, 26, 28]}
    assert one["gathers"] == expected[execution]


def test_gathering_numbers_takes_one_collective(two_workers):
    for always, sometimes in two_workers.run(laws.gather_numbers, 100):
        assert [kind for kind, _ in always] == ["CollectiveGatherV2"]
        assert not sometimes


def test_reduce_gives_each_form_what_mirrored_strategy_does(workers):
    """Law 11: by what a value means, not by its form."""
    devices = [f"CPU:{i}" for i in range(workers.size)]
    mirrored = laws.reductions(tf.distribute.MirroredStrategy(devices))
    for outcomes in workers.run(laws.reductions):
        assert outcomes.keys() == mirrored.keys()
        for case, expected in mirrored.items():
            if case.startswith("text"):  # In one process it is joined.
                assert outcomes[case] == "ValueError", case
                continue
            if isinstance(expected, str):
                assert isinstance(outcomes[case], str), case
                continue
            for own, other in zip(outcomes[case], expected, strict=True):
                assert (own.dtype, own.shape) == (other.dtype, other.shape), case
                np.testing.assert_allclose(own, other, rtol=1e-6, err_msg=str(case))


def test_fit_takes_bare_tensors_of_integers_in_uneven_batches(workers):
    (weights, losses), *others = workers.run(laws.fit_own_step)
    assert np.isfinite(losses).all()
    for theirs, their_losses in others:
        assert their_losses == losses
        for own, other in zip(weights, theirs, strict=True):
            np.testing.assert_array_equal(own, other)


def test_the_same_training_has_the_same_bits_on_real_workers(two_workers):
    """Laws 8 and 9; what workers hold back differs between them, and nothing by run."""
    rows = FEW[:3]
    first, again = (two_workers.run(laws.trainings, rows, timeout=120) for _ in "12")
    for row, *runs in zip(rows, *first, *again, strict=True):
        own = [{*one, *other} for one, other in zip(runs[:2], runs[2:], strict=True)]
        assert [len(digests) for digests in own] == [1, 1], row
