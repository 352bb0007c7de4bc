"""Result files of a comparison that was never run, made quickly and known exactly."""

import json
import math

import numpy as np

from tem_studies.comparison import plan, study
from tem_studies.comparison.configuration import Comparison
from tem_studies.comparison.directory import ComparisonDirectory
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.results import PHASES

SIZE, STEPS, WORKERS = 20_000, 50, 2
# Of a method: accuracy at its best rate, total error.
TRUTH = {
    "none": (0.93, 0.0),
    "hard_threshold": (0.92, 40.0),
    "topk_replay": (0.915, 48.0),
    "topk_model": (0.90, 60.0),
    "topk": (0.88, 75.0),
    "topk_warmup": (0.905, 55.0),
}


def comparison(directory, **settings):
    """A comparison of all of `TRUTH` at two budgets and three rates."""
    run = Configuration(
        datasource="digits",
        target_sparsity=0.0,
        batch_size=20,
        train_iterations=STEPS,
        workers=WORKERS,
    )
    values = {
        "methods": tuple(TRUTH),
        "budgets": (0.02, 0.05),
        "rates": (0.05, 0.1, 0.2),
        "baseline": "hard_threshold",
        "directory": str(directory),
    }
    return Comparison(run, **values | settings)


def result_of(task, planned):
    """What a run of `task` leaves: result.json and the records of its steps."""
    parts = task.name.split("-budget-")
    method = parts[0].split("-rate-")[0]
    accuracy, error = TRUTH.get(method, TRUTH["none"])
    budget = float(parts[1].split("-")[0]) if len(parts) > 1 else None
    settings = task.settings
    steps = settings.get("train_iterations", STEPS)
    seed, rate = settings.get("seed", 0), settings.get("learning_rate", 0.1)
    noise = np.random.default_rng([seed, len(method)]).normal(0, 0.002)
    accuracy += noise + 0.01 * math.sin(seed) - 0.02 * abs(math.log(rate / 0.1))
    entries, sent = np.full(steps, float(SIZE)), 4.0 * SIZE * steps
    if budget is not None:
        accuracy -= 0.02 * (0.05 / budget - 1)
        error = error * 0.05 / budget
        shape = np.exp(-np.arange(steps) / 10) + 0.3
        if method.startswith("topk") and method != "topk_replay":
            shape = np.ones(steps)
        entries = budget * SIZE * shape / shape.mean()
        sent = float(plan.volume.budget_bytes(budget, SIZE, steps))
        if "threshold" in settings:
            sent *= 0.05 / settings["threshold"]
        if method == "topk" and seed < 1000:
            sent *= 1.04  # Marked.
    errors = np.linspace(0.5, 1.5, steps) * error / steps
    history = [
        {
            "step": step,
            "loss": 1.0,
            "accuracy": 0.5,
            "validation_loss": 1.0,
            "validation_accuracy": accuracy * (1 - math.exp(-step / 12)),
            "learning_rate": rate,
            "density": budget or 1.0,
            "payload_bytes": round(WORKERS * sent * step / steps),
        }
        for step in range(min(10, steps), steps + 1, 10)
    ]
    result = {
        "configuration": planned.run.as_dict() | dict(task.settings),
        "status": "finished",
        "steps": steps,
        "seed": seed,
        "replicas": WORKERS,
        "history": history,
        "test": {"loss": 1.0, "accuracy": accuracy},
        "communication": {
            "density": budget or 1.0,
            "entries_sent": round(WORKERS * entries.sum()),
            "payload_bytes": round(WORKERS * sent),
            "padded_bytes": 0,
            "dense_bytes": 4 * SIZE * steps * WORKERS,
            "total_error": float(errors.sum()),
            "residual_norm": 1.0,
        },
        "data": {"place": "made up", "train": 100, "validation": 10, "test": 10},
        "versions": dict.fromkeys(
            ("tem_tf", "python", "tensorflow", "keras", "numpy"), "0"
        ),
        "seconds": dict.fromkeys(PHASES, 1.0),
        "pruning": {"dense/kernel": {"kept": SIZE, "total": SIZE}},
    }
    each = np.full(steps, sent / steps)
    return result, {"entries": entries, "payload_bytes": each, "error": errors}


def write(planned, most=None, change=lambda task, result: None):
    """Plays a comparison to its end, or `most` runs; returns the number of runs."""
    place = ComparisonDirectory(planned.path)
    place.open(planned)
    count = 0
    while most is None or count < most:
        todo = plan.Plan(planned, study.outcomes(place)).todo
        if not todo:
            break
        for task in todo.values():
            folder = planned.path / "runs" / task.name
            folder.mkdir()
            result, steps = result_of(task, planned)
            change(task, result)
            np.savez(folder / "steps.npz", **steps)
            (folder / "result.json").write_text(json.dumps(result))
            count += 1
            if count == most:
                break
    return count
