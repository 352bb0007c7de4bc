"""How far a study of many runs is, in words.

This file imports neither TensorFlow nor numpy.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class StudyProgress:
    """Counts runs, and says when the last one should end.

    Runs of other processes count, too, once they are finished: the pace is that of all.

    Args:
        done: Runs that were finished when this process began.
        clock: Seconds.
    """

    def __init__(self, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._done, self._clock = done, clock
        self._began = clock()

    def words(self, done: int, total: int, at_least: bool = False) -> str:
        """As in "12 of 40, about 2 min left".

        Args:
            done: Runs that are finished.
            total: Runs that are known to be wanted.
            at_least: Whether more may come.
        """
        shown = f"{done} of {'at least ' if at_least else ''}{total}"
        if done >= total or done <= self._done:
            return shown
        each = (self._clock() - self._began) / (done - self._done)
        return f"{shown}, about {duration(each * (total - done))} left"


def duration(seconds: float) -> str:
    """A time that is not known to the second.

    >>> duration(20), duration(130), duration(9000)
    ('20 s', '2 min', '2.5 h')
    """
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if seconds < 3600:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def said_at_start(done: int, what: str) -> str | None:
    """That a study goes on; None where it begins.

    >>> said_at_start(3, "trials")
    '3 trials are finished already, and are not run again'
    >>> said_at_start(1, "trials")
    '1 of the trials is finished already, and is not run again'
    """
    if not done:
        return None
    if done == 1:
        return f"1 of the {what} is finished already, and is not run again"
    return f"{done} {what} are finished already, and are not run again"
