"""Volumes by what is left of a pruned network."""

import pytest

from tem_studies.workloads.live_entries import volume_lines, with_live

PRUNED = {"a": {"kept": 5, "total": 90}, "b": {"kept": 5, "total": 10}}
WHOLE = {"a": {"kept": 100, "total": 100}}
SENT = {
    "density": 0.02,
    "payload_bytes": 120,
    "padded_bytes": 40,
    "dense_bytes": 4000,
    "steps": 10,
}


def result(communication, pruning, **settings):
    configuration = {"local_steps": None, "compressor": "topk"} | settings
    return {
        "communication": communication,
        "pruning": pruning,
        "configuration": configuration,
        "steps": 10,
    }


def test_of_a_pruned_network_both_are_told():
    found = with_live(SENT, PRUNED)
    assert found["sent_per_live_entry"] == pytest.approx(0.2)
    assert found["live_dense_bytes"] == 400
    assert with_live(None, PRUNED) is None
    assert volume_lines(result(SENT, PRUNED)) == [
        "density         2 %",
        "bytes sent      160 (4 % of 4,000 dense)",
        "not pruned      10 of 100 entries: density 20 % of these, bytes 40 % of 400 "
        "dense",
    ]


def test_of_a_whole_network_there_is_nothing_to_add():
    assert with_live(SENT, WHOLE)["sent_per_live_entry"] == SENT["density"]
    assert len(volume_lines(result(SENT, WHOLE))) == 2


def test_dense_would_exchange_at_every_local_step():
    lines = volume_lines(result(SENT | {"steps": 5}, PRUNED, local_steps=2))
    assert lines[1] == "bytes sent      160 (2 % of 8,000 dense)"
    assert lines[2].endswith("bytes 20 % of 800 dense")


def test_a_payload_that_is_not_smaller_is_said():
    large = SENT | {"payload_bytes": 4000}
    assert volume_lines(result(large, WHOLE))[-1] == (
        "nothing saved   topk sent no fewer bytes than dense exchange would have"
    )
    assert len(volume_lines(result(large, WHOLE, compressor="none"))) == 2


@pytest.mark.parametrize("communication", [None, SENT | {"dense_bytes": 0}])
def test_nothing_is_told_of_what_was_not_sent(communication):
    assert volume_lines(result(communication, WHOLE)) == []
