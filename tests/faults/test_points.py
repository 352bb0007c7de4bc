"""What the faults' own machinery does, without workers."""

import pytest

from tests.faults.points import POINTS, Moment, Trigger


@pytest.mark.parametrize("after", [False, True])
def test_a_trigger_acts_once_at_its_moment(after):
    acted = []
    trigger = Trigger(Moment("copy", after, 2), lambda: acted.append(len(seen)))
    seen = []
    copy = trigger.around("copy", seen.append)
    other = trigger.around("write", seen.append)
    for _ in range(4):
        other(0)
        copy(0)
    assert acted == [4 if after else 3]  # Around the fourth call, copy's second.


def test_without_a_moment_nothing_happens():
    def fail():
        raise AssertionError("it acted")

    trigger = Trigger(None, fail)
    for point in POINTS:
        trigger.reach(point)
