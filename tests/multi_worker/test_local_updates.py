"""Local updates of several real workers."""

import pytest

from tests.multi_worker import local_update_laws as laws


def fit_shows_common_weights_alone(workers, tmp_path, validate):
    ended = workers.run(laws.fitted, str(tmp_path), validate, timeout=200)
    for one in ended[1:]:
        assert one == ended[0]
    assert len(set(map(tuple, ended[0]["seen"]))) == 2
    # Three exchanges for eight steps, twice, and one of two steps more.
    assert ended[0]["exchanges"] == 7
    assert ended[0]["always"] == []
    assert len(list(tmp_path.glob("*.h5"))) == 2


def test_callbacks_of_two_see_common_weights_alone(two_workers, tmp_path):
    fit_shows_common_weights_alone(two_workers, tmp_path, validate=False)


def test_validation_of_three_too(three_workers, tmp_path):
    fit_shows_common_weights_alone(three_workers, tmp_path, validate=True)


def killed_between_exchanges_they_end_the_same(workers, tmp_path):
    whole = workers.run(laws.trained, str(tmp_path / "whole"))
    for kill_at in (5, 7):
        workers.run(laws.trained, str(tmp_path / "killed"), kill_at)
    ended = workers.run(laws.trained, str(tmp_path / "killed"))
    assert ended == whole
    assert ended[0]["kept"] != ended[1]["kept"]


def test_two_that_are_killed_between_exchanges_end_the_same(two_workers, tmp_path):
    killed_between_exchanges_they_end_the_same(two_workers, tmp_path)


@pytest.mark.exhaustive
def test_three_that_are_killed_between_exchanges_end_the_same(three_workers, tmp_path):
    killed_between_exchanges_they_end_the_same(three_workers, tmp_path)


@pytest.mark.exhaustive
def test_no_collective_is_executed_between_exchanges(two_workers, tmp_path):
    for counts in two_workers.run(laws.executed, str(tmp_path), 6):
        assert [count > 0 for count in counts] == [False, False, True] * 2


def test_saving_within_an_epoch_is_refused(two_workers, tmp_path):
    for said in two_workers.run(laws.refused, str(tmp_path)):
        assert "`save_freq` of ModelCheckpoint must be 'epoch'" in said


def test_workers_that_exchange_at_other_times_are_told_before(two_workers):
    for said in two_workers.run(laws.differing):
        assert "local_steps" in said


def test_one_that_is_not_finite_ends_all(two_workers):
    for said in two_workers.run(laws.diverging):
        assert "has NaN or Inf" in said


def test_callbacks_of_one_worker_alone_are_refused(two_workers):
    for said in two_workers.run(laws.heard_by_one):
        assert said.startswith("`callbacks` with `on_epoch_end` must be on all workers")
        assert "some on worker 0 alone" in said


def test_an_optimizer_that_goes_on_after_nan_is_validated_in_common_too(two_workers):
    for pending in two_workers.run(laws.validated):
        assert set(pending) == {0}


def test_fragments_are_exchanged_while_gradients_are_computed(two_workers):
    for there, before in two_workers.run(laws.before_exchanges):
        assert "MatMul" in there
        assert "MatMul" not in before


def test_fragments_end_where_data_end(two_workers):
    mine, its = two_workers.run(laws.streamed_to_the_end, timeout=120)
    assert mine == its


def test_fragments_are_the_same_with_several_steps_in_a_graph(two_workers):
    expected = two_workers.run(laws.streamed_in_a_loop, 1, timeout=120)
    assert expected[0] == expected[1]
    assert two_workers.run(laws.streamed_in_a_loop, 3, timeout=120) == expected


def test_two_that_are_killed_amid_fragments_end_the_same(two_workers, tmp_path):
    whole = two_workers.run(laws.streamed, str(tmp_path / "whole"))
    two_workers.run(laws.streamed, str(tmp_path / "killed"), 5)
    ended = two_workers.run(laws.streamed, str(tmp_path / "killed"))
    assert ended == whole
    assert ended[0]["kept"] != ended[1]["kept"]
