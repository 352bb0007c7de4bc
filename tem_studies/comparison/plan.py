"""Which runs a comparison needs next, from what is finished: a pure function of both.

    probe      one dense step: the sizes of the variables
    pilots     the search for the λ or density that meets the budget, on the first
               tuning seed; what meets it is that seed's tuning run
    tuning     every method at every budget and rate on the tuning seeds; a winner at
               the edge of the grid widens the grid by its own ratio
    reported   the winners, and all methods at the common rate, on the reported seeds

The same settings have the same name, so what two parts need is run once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from tem_studies.comparison import volume
from tem_studies.comparison.configuration import PROBE, Comparison
from tem_studies.comparison.methods import WARM_UP, method_of
from tem_studies.refusal import Refusal
from tem_studies.workloads.own_names import file_name

# Two volumes are equal within 2 %; a pilot must come to half of that, since other seeds
# send a little more or less.
TOLERANCE = 0.02
PILOT_TOLERANCE = 0.01
# Our choice: four pilots are the rule, and what eight do not find is not there.
MOST_PILOTS = 8
# A grid grows at either end by at most so many rates.
MOST_WIDENINGS = 3

DENSE_BUDGET = None  # The budget of a method that has none.


@dataclasses.dataclass(frozen=True)
class Task:
    """One run.

    Attributes:
        name: Of its directory.
        settings: Of the run, over what all runs share.
        replays: Name of the run whose k_t it sends, or "".
    """

    name: str
    settings: Mapping[str, Any]
    replays: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a plan needs to know of a finished run.

    Attributes:
        sent: Bytes of one worker, padding apart.
        gain: Validation quality, higher better; None: diverged.
        size: Entries of the gradient.
    """

    sent: float
    gain: float | None
    size: int


@dataclasses.dataclass(frozen=True)
class Row:
    """One method at one budget and rate, on the reported seeds.

    Attributes:
        method, budget, rate: As named.
        kind: "tuned" or "common".
        budget_bytes: What one worker may send; None: as much as it takes.
        strength: What pilots found; None: nothing.
        tasks: A run for each seed.
    """

    method: str
    budget: float | None
    rate: float
    kind: str
    budget_bytes: float | None
    strength: float | None
    tasks: tuple[Task, ...]


class _WaitsError(Exception):
    """A run that is not finished stands in the way."""


class Plan:
    """The runs of a comparison.

    Args:
        comparison: Its settings.
        outcomes: Of finished runs by name.

    Attributes:
        todo: Runs that can be started now, in order.
        rows: What is to be reported; complete once `todo` is empty.
        tuning: (method, budget, rate, mean gain or None, bytes over budget) of every
            rate that was tried on all tuning seeds.
        unmet: What is wrong with budgets that a method cannot meet; all others go on.

    Raises:
        Refusal: a budget cannot be met by any run.
    """

    def __init__(self, comparison: Comparison, outcomes: Mapping[str, Outcome]) -> None:
        self._comparison, self._outcomes = comparison, outcomes
        self.todo: dict[str, Task] = {}
        self.rows: list[Row] = []
        self.unmet: list[str] = []
        self.tuning: list[tuple[str, float | None, float, float | None, float]] = []
        self._chosen: dict[tuple[str, float | None], float] = {}
        probe = Task(PROBE, {"compressor": "none", "train_iterations": 1})
        try:
            self._size = self._outcome(probe).size
        except _WaitsError:
            return
        for budget in comparison.budgets:
            if budget * self._size < 1:
                raise Refusal(
                    f"`budgets` {budget:g} is less than one entry a step of the "
                    f"{self._size:,} that the network has. Pass a larger budget."
                )
            if WARM_UP in comparison.methods:
                self._warm_up(budget)
        # Who is replayed comes before who replays.
        methods = sorted(comparison.methods, key=lambda m: method_of(m).replays != "")
        for method in methods:
            has_budget = method_of(method).has_budget
            for budget in comparison.budgets if has_budget else (DENSE_BUDGET,):
                self._plan(method, budget)
        order = {method: i for i, method in enumerate(comparison.methods)}
        budgets = [DENSE_BUDGET, *comparison.budgets]
        self.rows.sort(
            key=lambda r: (r.kind != "tuned", budgets.index(r.budget), order[r.method])
        )

    @property
    def least_to_run(self) -> int:
        """Runs that are missing, as far as is known: pilots may ask for more."""
        comparison = self._comparison
        kind = "common" if len(comparison.rates) > 1 else "tuned"
        planned = sum(row.kind == kind for row in self.rows)
        wanted = sum(
            len(comparison.budgets) if method_of(method).has_budget else 1
            for method in comparison.methods
        )
        unplanned = max(0, wanted - planned - len(self.unmet))
        return len(self.todo) + unplanned * comparison.nseeds

    def _plan(self, method: str, budget: float | None) -> None:
        comparison = self._comparison
        common = comparison.run.learning_rate
        for kind in ("common", "tuned") if len(comparison.rates) > 1 else ("tuned",):
            try:
                rate = common if kind == "common" else self._tune(method, budget)
            except _WaitsError:
                continue
            if kind == "tuned":
                self._chosen[method, budget] = rate
            try:
                settings, strength, replays = self._settings(method, budget, rate)
            except _WaitsError:
                continue
            tasks = tuple(
                self._task(method, budget, rate, settings, strength, seed, replays)
                for seed in comparison.seeds
            )
            for task in tasks:
                self._want(task)
            allowed = budget and self._budget_bytes(budget)
            row = Row(method, budget, rate, kind, allowed, strength, tasks)
            self.rows.append(row)

    def _tune(self, method: str, budget: float | None) -> float:
        """The best rate by the mean over tuning seeds."""
        comparison = self._comparison
        rates = list(comparison.rates)
        if len(rates) == 1:
            if budget is not None and method_of(method).searched:
                pilot = self._pilot(method, budget, rates[0])
                if not self._is_met(budget, self._outcome(pilot)):
                    self._give_up(method, budget, rates)
            return rates[0]
        # The common rate first: pilots at other rates start from what it finds.
        gains: dict[float, float] = {}
        waits = False
        common = comparison.run.learning_rate
        for rate in sorted(rates, key=lambda r: abs(math.log(r / common))):
            try:
                gains[rate] = self._gain(method, budget, rate)
            except _WaitsError:
                waits = True
        if waits:
            raise _WaitsError
        for _ in range(MOST_WIDENINGS):
            best = max(gains, key=gains.__getitem__)
            rates = sorted(gains)
            if gains[best] == -math.inf or best not in (rates[0], rates[-1]):
                break
            inner, ratio = best, rates[1] / rates[0]
            outer = inner / ratio if best == rates[0] else inner * ratio
            rate = float(f"{outer:.6g}")
            gains[rate] = self._gain(method, budget, rate)
        best = max(gains, key=gains.__getitem__)
        if gains[best] == -math.inf:
            self._give_up(method, budget, sorted(gains))
        return best

    def _is_met(self, budget: float, pilot: Outcome) -> bool:
        ratio = pilot.sent / self._budget_bytes(budget)
        return pilot.gain is not None and abs(ratio - 1) <= TOLERANCE

    def _give_up(
        self, method: str, budget: float | None, rates: Sequence[float]
    ) -> NoReturn:
        """Notes that a method has nothing to report, and why."""
        tried = " ".join(f"{rate:g}" for rate in rates)
        place = self._comparison.path
        if budget is None:
            words = (
                f"`rates` {tried} are none for {method}: a run on a tuning seed "
                f"diverged at each of them. See {place}. Pass other --rates."
            )
        else:
            words = (
                f"`budgets` {budget:g} cannot be met by {method}: at none of the rates "
                f"{tried} did a pilot run end with that volume within "
                f"{100 * TOLERANCE:g} %. See {place}. Pass another budget, more "
                "--train_iterations or other --rates."
            )
        self.unmet.append(words)
        raise _WaitsError

    def _gain(self, method: str, budget: float | None, rate: float) -> float:
        """Mean over tuning seeds; -inf if one diverged or missed the volume."""
        settings, strength, replays = self._settings(method, budget, rate)
        tasks = [
            self._task(method, budget, rate, settings, strength, seed, replays)
            for seed in self._comparison.seeds_for_tuning
        ]
        for task in tasks:
            self._want(task)
        outcomes = [self._outcome(task) for task in tasks]
        gains = [outcome.gain for outcome in outcomes]
        known = [gain for gain in gains if gain is not None]
        ratio = math.nan
        if budget is not None:
            sent = sum(outcome.sent for outcome in outcomes) / len(outcomes)
            ratio = sent / self._budget_bytes(budget)
        usable = len(known) == len(gains)
        # What pilots were to meet and did not is no candidate.
        row = method_of(method)
        is_common = rate == self._comparison.run.learning_rate
        if row.searched and (row.at_every_rate or is_common):
            usable = usable and self._is_met(budget or 0.0, outcomes[0])
        mean = sum(known) / len(known) if usable else None
        self.tuning.append((method, budget, rate, mean, ratio))
        return -math.inf if mean is None else mean

    def _settings(
        self, method: str, budget: float | None, rate: float
    ) -> tuple[dict[str, Any], float | None, str]:
        """Settings, the strength that pilots found, and the run that is replayed."""
        row, own = method_of(method), self._comparison.settings_of
        if budget is None:
            return own(method, 1.0), None, ""
        if row.replays:
            model = self._chosen.get((row.replays, budget))
            if model is None:
                raise _WaitsError
            return (
                own(method, 1.0),
                None,
                self._pilot(row.replays, budget, model).name,
            )
        if not row.at_every_rate:
            rate = self._comparison.run.learning_rate
        strength = self._pilot(method, budget, rate).settings[row.searched]
        return self._of_strength(method, budget, strength), strength, ""

    def _of_strength(
        self, method: str, budget: float, strength: float
    ) -> dict[str, Any]:
        settings = self._comparison.settings_of(method, strength)
        if method == WARM_UP:
            settings["warmup_steps"] = self._warm_up(budget)
        return settings

    def _pilot(self, method: str, budget: float, rate: float) -> Task:
        """The pilot run whose volume is nearest to the budget.

        Raises:
            _WaitsError: there may be a nearer one, and it is on the list.
        """
        row, comparison = method_of(method), self._comparison
        start = row.start(budget, self._size)
        if rate != comparison.run.learning_rate:
            near = self._pilot(method, budget, comparison.run.learning_rate)
            start = near.settings[row.searched]
        elif method == WARM_UP:
            dense = 4 * self._size * self._warm_up(budget)
            start *= max(0.01, 1 - dense / self._budget_bytes(budget))
        seed, tried = comparison.seeds_for_tuning[0], []
        strength = row.rounded(start, self._size)
        while True:
            settings = self._of_strength(method, budget, strength)
            task = self._task(method, budget, rate, settings, strength, seed)
            outcome = self._outcome(task)
            ratio = outcome.sent / self._budget_bytes(budget)
            tried.append((math.log(strength), math.log(max(ratio, 1e-6)), task))
            nearest = min(tried, key=lambda t: abs(t[1]))
            if abs(math.expm1(nearest[1])) <= PILOT_TOLERANCE:
                return nearest[2]
            # A run that diverged tells nothing about the volume.
            if len(tried) == MOST_PILOTS or outcome.gain is None:
                return nearest[2]
            strength = math.exp(next_strength(tried, row.slope))
            strength = row.rounded(strength, self._size)
            if any(math.log(strength) == other for other, *_ in tried):
                return nearest[2]

    def _warm_up(self, budget: float) -> int:
        steps = self._comparison.run.train_iterations
        return volume.warm_up_steps(budget, self._size, steps)

    def _budget_bytes(self, budget: float) -> float:
        steps = self._comparison.run.train_iterations
        return volume.budget_bytes(budget, self._size, steps)

    def _task(
        self,
        method: str,
        budget: float | None,
        rate: float,
        settings: Mapping[str, Any],
        strength: float | None,
        seed: int,
        replays: str = "",
    ) -> Task:
        parts = [file_name(method)]
        parts += [f"budget-{budget:g}"] if budget is not None else []
        parts += [f"rate-{rate:g}"]
        parts += [f"strength-{strength:.6g}"] if strength is not None else []
        parts += [f"like-{replays.split('-rate-')[1]}"] if replays else []
        own = {"learning_rate": rate, "seed": seed}
        return Task("-".join([*parts, f"seed-{seed}"]), {**settings, **own}, replays)

    def _want(self, task: Task) -> None:
        if task.name not in self._outcomes:
            self.todo.setdefault(task.name, task)

    def _outcome(self, task: Task) -> Outcome:
        self._want(task)
        if task.name not in self._outcomes:
            raise _WaitsError
        return self._outcomes[task.name]


def next_strength(tried: list[tuple[float, float, Any]], slope: float) -> float:
    """Where log(volume / budget) should be 0, by the secant through two tries.

    Args:
        tried: (log strength, log of volume over budget, …), at least one.
        slope: d log(volume) / d log(strength) as guessed, for the first step. Its sign
            holds; a secant is kept within a factor of 4 of it, and within the bracket.

    Returns:
        The next log strength.
    """
    # Of equals, as where nothing was sent, the latest: it went furthest.
    ordered = sorted(reversed(tried), key=lambda t: abs(t[1]))
    x, y = ordered[0][:2]
    opposite = [t for t in ordered if t[1] * y < 0]
    # Through the nearest on the other side of 0, else through the next nearest.
    partner = (opposite or ordered[1:] or [None])[0]
    if partner is not None and partner[0] != x:
        secant = (y - partner[1]) / (x - partner[0])
        if secant * slope > 0:
            factor = min(max(secant / slope, 0.25), 4.0)
            slope *= factor
    found = x - y / slope
    if opposite:
        low, high = sorted((x, opposite[0][0]))
        if not low < found < high:
            found = (low + high) / 2
    return min(max(found, x - math.log(30)), x + math.log(30))
