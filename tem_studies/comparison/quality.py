"""The one place that knows which number of a result is its quality.

Every task has its own metric; for some of them less is better.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tem_studies.refusal import Refusal


@dataclasses.dataclass(frozen=True)
class Quality:
    """A metric.

    Attributes:
        name: Its name in result.json: `test[name]`, `history[…]["validation_" + name]`.
        is_higher_better: Whether more of it is better.
        margin: Differences of less count as none, unless `--margin` says otherwise:
            0.3 points of accuracy, 1 % of perplexity and of a loss.
        is_relative: Whether the margin is a share of the baseline's mean.
    """

    name: str
    is_higher_better: bool
    margin: float
    is_relative: bool = False

    def validation(self, result: Mapping[str, Any]) -> float | None:
        """At the last check; None if the run diverged."""
        if result["status"] == "diverged" or not result["history"]:
            return None
        return result["history"][-1][f"validation_{self.name}"]

    def test(self, result: Mapping[str, Any]) -> float | None:
        """After the last step; None if the run diverged.

        Of a task without a test split it is the validation's.
        """
        if result["status"] != "diverged" and result["test"] is None:
            return self.validation(result)
        return result["test"][self.name] if result["test"] else None

    def gain(self, difference: float) -> float:
        """A difference with its sign so that more is better."""
        return difference if self.is_higher_better else -difference


# By name; the first that a result has is its quality.
QUALITIES = (
    Quality("accuracy", True, 0.003),
    Quality("perplexity", False, 0.01, is_relative=True),
    Quality("hit_rate_at_10", True, 0.003),
    Quality("loss", False, 0.01, is_relative=True),  # Which all have.
)


def quality_of(result: Mapping[str, Any]) -> Quality:
    """The metric of a result's task.

    Raises:
        Refusal: its task has none that is known here.
    """
    names = {name for record in result["history"] for name in record}
    for quality in QUALITIES:
        if f"validation_{quality.name}" in names:
            return quality
    raise Refusal(
        "A comparison needs a result with a quality, one of "
        f"{', '.join(q.name for q in QUALITIES)}. Received: {sorted(names)}."
    )
