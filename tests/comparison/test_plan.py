"""Which runs a comparison asks for, played with made-up outcomes."""

import math

import numpy as np
import pytest

from tem_studies.comparison import volume
from tem_studies.comparison.configuration import Comparison
from tem_studies.comparison.plan import MOST_PILOTS, Outcome, Plan, next_strength
from tem_studies.refusal import Refusal
from tem_studies.workloads.configuration import Configuration

SIZE, STEPS = 20_000, 100
BUDGET = volume.budget_bytes(0.01, SIZE, STEPS)


def make(methods=("topk_model", "hard_threshold"), **settings):
    run = Configuration(
        datasource="digits", target_sparsity=0.0, train_iterations=STEPS, workers=2
    )
    values = {"methods": methods, "budgets": (0.01,), "nseeds": 2} | settings
    return Comparison(run, **values)


def play(comparison, sends=None, gains=None, most=300):
    """Runs a plan to its end; `sends` gives bytes over budget by task."""
    outcomes, order = {}, []
    for _ in range(most):
        plan = Plan(comparison, outcomes)
        if not plan.todo:
            return plan, order
        task = next(iter(plan.todo.values()))
        order.append(task)
        ratio = sends(task) if sends else 1.0
        gain = gains(task) if gains else 0.5
        outcomes[task.name] = Outcome(ratio * BUDGET, gain, SIZE)
    raise AssertionError("the plan has no end")


def as_inverse_square(task):
    """The volume of a hard threshold goes as λ^-1.7 here, and is met at 0.0123."""
    threshold = task.settings.get("threshold")
    return (0.0123 / threshold) ** 1.7 if threshold else 1.0


def test_without_rates_pilots_find_the_threshold_on_a_seed_of_their_own():
    comparison = make()
    plan, order = play(comparison, as_inverse_square)
    pilots = [t for t in order if t.settings.get("seed") == 1000]
    assert [t.settings["compressor"] for t in pilots][0] == "topk"
    assert 3 <= len(pilots) <= 5
    rows = {row.method: row for row in plan.rows if row.kind == "tuned"}
    assert rows["hard_threshold"].strength == pytest.approx(0.0123, rel=0.01)
    for row in rows.values():
        assert [t.settings["seed"] for t in row.tasks] == [0, 1]
        assert {t.settings["learning_rate"] for t in row.tasks} == {0.1}
        assert row.budget_bytes == BUDGET
    # The last pilot is what the reported runs use.
    assert pilots[-1].settings["threshold"] == rows["hard_threshold"].strength
    assert not {t.name for t in pilots} & {
        t.name for row in plan.rows for t in row.tasks
    }


def test_what_is_missing_is_counted_as_far_as_it_is_known():
    comparison = make()
    assert Plan(comparison, {}).least_to_run == 1 + 2 * 2  # The probe, two seeds each.
    plan, order = play(comparison, as_inverse_square)
    assert plan.least_to_run == 0
    outcomes = {}
    for done, task in enumerate(order):  # Never more than come.
        missing = Plan(comparison, outcomes).least_to_run
        assert 0 < missing <= len(order) - done
        ratio = as_inverse_square(task)
        outcomes[task.name] = Outcome(ratio * BUDGET, 0.5, SIZE)


def test_rates_are_chosen_on_tuning_seeds_and_shown_beside_the_common_one():
    def gains(task):
        best = 0.3 if task.settings["compressor"] == "topk" else 0.1
        return -abs(math.log(task.settings.get("learning_rate", 1) / best))

    comparison = make(rates=(0.03, 0.1, 0.3, 1.0), tuning_seeds=2)
    plan, order = play(comparison, as_inverse_square, gains)
    rates = {(r.method, r.kind): r.rate for r in plan.rows}
    assert rates == {
        ("topk_model", "tuned"): 0.3,
        ("topk_model", "common"): 0.1,
        ("hard_threshold", "tuned"): 0.1,
        ("hard_threshold", "common"): 0.1,
    }
    tuned = [t for t in order if t.settings.get("seed", 0) >= 1000]
    assert {t.settings["seed"] for t in tuned} == {1000, 1001}
    # What two parts need is run once.
    assert len(order) == len({t.name for t in order})
    by_kind = {(r.method, r.kind): r.tasks for r in plan.rows}
    common = by_kind["hard_threshold", "common"]
    assert by_kind["hard_threshold", "tuned"] == common


def test_a_winner_at_the_edge_widens_the_grid():
    def gains(task):
        return -abs(math.log(task.settings.get("learning_rate", 1) / 0.9))

    plan, _ = play(make(("none", "topk_model"), rates=(0.03, 0.1)), gains=gains)
    tried = sorted(rate for method, _, rate, *_ in plan.tuning if method == "none")
    assert tried == pytest.approx([0.03, 0.1, 1 / 3, 1 / 0.9, 1 / 0.27], rel=1e-3)
    assert {r.rate for r in plan.rows if r.kind == "tuned"} == {1.11111}


def test_a_rate_that_diverges_or_misses_the_volume_is_no_candidate():
    def sends(task):
        rate = task.settings.get("learning_rate")
        if rate == 0.3 and task.settings["compressor"] == "hard_threshold":
            return 1.5  # Whatever the threshold.
        return as_inverse_square(task)

    def gains(task):
        rate = task.settings.get("learning_rate", 0)
        return None if rate > 0.5 else rate

    comparison = make(rates=(0.03, 0.1, 0.3, 1.0))
    plan, order = play(comparison, sends, gains)
    tuned = {r.method: r.rate for r in plan.rows if r.kind == "tuned"}
    assert tuned == {"topk_model": 0.3, "hard_threshold": 0.1}
    pilots = [
        t
        for t in order
        if t.settings["compressor"] == "hard_threshold"
        and t.settings["learning_rate"] == 0.3
    ]
    assert 1 < len(pilots) <= MOST_PILOTS


def test_a_budget_that_nothing_meets_is_an_error():
    comparison = make(rates=(0.03, 0.1, 0.3))
    words = "`budgets` 0.01 cannot be met by hard_threshold: at none of the rates"
    plan, _ = play(
        comparison, lambda task: 1.5 if "threshold" in task.settings else 1.0
    )
    assert [text.startswith(words) for text in plan.unmet] == [True]
    # The other method is reported all the same.
    assert {r.method for r in plan.rows if r.kind == "tuned"} == {"topk_model"}


def test_a_budget_that_nothing_meets_is_an_error_at_a_single_rate_too():
    """Nothing is reported at a volume that pilots did not find."""
    comparison = make(("none", "topk_replay", "hard_threshold"))
    plan, order = play(comparison, lambda t: 1.5 if "threshold" in t.settings else 1.0)
    words = "`budgets` 0.01 cannot be met by hard_threshold: at none of the rates 0.1 d"
    assert [text.startswith(words) for text in plan.unmet] == [True]
    assert {row.method for row in plan.rows} == {"none"}
    assert {t.settings["seed"] for t in order if "threshold" in t.settings} == {1000}


def test_a_dense_method_that_diverges_at_all_rates_is_an_error():
    comparison = make(("none", "topk_model"), rates=(0.03, 0.1, 0.3))
    plan, _ = play(
        comparison,
        gains=lambda t: None if t.name.startswith("none") else 0.5,
    )
    words = "`rates` 0.03 0.1 0.3 are none for none: a run on a tuning seed diverged"
    assert [text.startswith(words) for text in plan.unmet] == [True]


def test_a_density_that_is_searched_ends_at_1():
    def sends(task):  # Few of the entries that are asked for are not 0.
        return 0.5 * (task.settings.get("density", 0.01) / 0.01) ** 0.1

    plan, order = play(make(("none", "topk"), rates=(0.03, 0.1, 0.3)), sends)
    assert max(t.settings.get("density", 0) for t in order) == 1
    assert max(row.strength or 0 for row in plan.rows) == 1


def test_a_budget_below_an_entry_a_step_is_an_error():
    with pytest.raises(Refusal, match="is less than one entry a step of the 20,000"):
        play(make(budgets=(0.00004,)))


def test_replay_waits_for_the_tuned_threshold_and_takes_its_pilot():
    def gains(task):
        return -abs(math.log(task.settings.get("learning_rate", 1) / 0.03))

    comparison = make(
        ("topk_replay", "hard_threshold"), rates=(0.01, 0.03, 0.1), nseeds=1
    )
    plan, order = play(comparison, as_inverse_square, gains)
    replays = [t for t in order if t.replays]
    threshold = next(r for r in plan.rows if r.method == "hard_threshold")
    assert {t.replays for t in replays} == {
        f"hard_threshold-budget-0.01-rate-0.03-strength-{threshold.strength:g}-seed-1000"
    }
    assert {t.settings["learning_rate"] for t in replays} == {0.01, 0.03, 0.1}
    names = [t.name for t in order]
    assert names.index(replays[0].replays) < names.index(replays[0].name)


def test_what_entries_cost_is_found_by_pilots_once_for_all_rates():
    def sends(task):  # 10 % less than at random places
        density = task.settings.get("density")
        return 0.9 * int(density * SIZE) / 200 if density else 1.0

    plan, order = play(make(("none", "topk_model"), rates=(0.03, 0.1, 0.3)), sends)
    pilots = [t.settings["density"] for t in order if "density" in t.settings]
    assert int(pilots[0] * SIZE) == 200
    assert {int(d * SIZE) for d in pilots[1:]} == {222}
    rates = {t.settings["learning_rate"] for t in order if "density" in t.settings}
    assert {0.03, 0.1, 0.3} <= rates


def test_a_dense_start_takes_half_of_the_budget():
    def sends(task):
        settings = task.settings
        if not settings.get("warmup_steps"):
            return 1.0
        assert settings["topk_scope"] == "model"
        dense = settings["warmup_steps"]
        rest = (STEPS - dense) * int(settings["density"] * SIZE) / 200 / STEPS
        return dense * 4 * SIZE / BUDGET + rest

    plan, _ = play(make(("topk_warmup", "none")), sends)
    task = next(r for r in plan.rows if r.method == "topk_warmup").tasks[0]
    assert task.settings["warmup_steps"] == 1 == max(1, BUDGET // (8 * SIZE))
    assert sends(task) == pytest.approx(1, abs=0.01)


def test_a_budget_below_a_dense_step_cannot_have_a_dense_start():
    with pytest.raises(Refusal, match="cannot be met by topk_warmup: over 100 st"):
        play(make(("topk_warmup", "none"), budgets=(0.001,)))


@pytest.mark.parametrize("start", [3, 30, 300])
def test_search_goes_on_where_a_threshold_lets_nothing_through(start):
    """All such runs send the same few bytes: headers without entries."""
    x, tried = math.log(start), []
    for _ in range(MOST_PILOTS):
        y = max(-1.5 * (x - math.log(0.1)), math.log(0.02))
        tried.append((x, y))
        if abs(math.expm1(y)) < 0.01:
            assert sum(y == math.log(0.02) for _, y in tried) > 1 or start == 3
            return
        x = next_strength(tried, -1.5)
    raise AssertionError(np.exp(tried))


@pytest.mark.parametrize("power", [-0.6, -1, -2, -3.5])
@pytest.mark.parametrize("start", [0.001, 1, 200])
def test_search_ends_for_volumes_of_every_power(power, start):
    x, tried = math.log(start), []
    for _ in range(MOST_PILOTS):
        y = power * (x - math.log(0.3)) + 0.02 * math.sin(9 * x)
        tried.append((x, y))
        if abs(math.expm1(y)) < 0.01:
            return
        x = next_strength(tried, -1.5)
    raise AssertionError(np.exp(tried))


def test_ones_own_compressor_has_a_row_without_a_budget():
    plan, order = play(make(("topk_model", "mine:Half"), compressor_arguments="k=3"))
    row = next(row for row in plan.rows if row.method == "mine:Half")
    assert (row.budget, row.budget_bytes, row.strength) == (None, None, None)
    assert [task.name for task in row.tasks] == [
        "mine.Half-rate-0.1-seed-0",
        "mine.Half-rate-0.1-seed-1",
    ]
    assert dict(row.tasks[0].settings) == {
        "compressor": "mine:Half",
        "compressor_arguments": {"k": 3},
        "learning_rate": 0.1,
        "seed": 0,
    }
    assert not plan.unmet
