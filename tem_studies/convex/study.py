"""A study: methods, compressors and seeds on one data set, resumable run by run.

LOGDIR receives, besides what `figures` draws,

    runs/NAME/…      one run, see `run_files`; a finished one is not repeated
    summary.csv      one line per run
    curves.csv       mean, least and greatest over seeds
    minimum-….npz    x* and f*
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tem_studies.convex import data, figures, problem, run_files, simulation, splits
from tem_studies.convex.cells import Cell, cells
from tem_studies.convex.configuration import CONTROLS, ConvexConfiguration
from tem_studies.convex.methods import METHODS, Method
from tem_studies.convex.schedules import SCHEDULES
from tem_studies.refusal import Refusal, refusing
from tem_studies.workloads import study_files
from tem_studies.workloads.study_progress import StudyProgress, said_at_start

# Settings on which a run does not depend, though its study does.
_NOT_OF_A_RUN = {
    *("methods", "compressors", "threshold", "density", "k", "sweep", "seeds", "seed"),
    *("goal_suboptimality", "threads", "logdir", "path_data", "local_steps"),
    "compressor_arguments",
}


def run(
    configuration: ConvexConfiguration, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Runs what has no result yet, then writes tables and figures.

    Returns:
        `diverged`: labels of runs that did; `moved_away`: of those that left again
        what they had come to, and how far; `rows`: the lines of summary.csv.

    Raises:
        Refusal: data and settings do not fit together.
    """
    if configuration.threads:  # raises where TensorFlow has run already
        tf.config.threading.set_intra_op_parallelism_threads(configuration.threads)
    logdir = Path(configuration.logdir)
    todo = cells(configuration)
    for cell in todo:
        cell.make()  # Raises before any work.
    with refusing(MemoryError):
        loaded = data.load(
            configuration.datasource,
            configuration.path_data,
            classes=configuration.classes,
            size=configuration.made_up_size,
        )
        signed = loaded.signed
    workers = configuration.workers
    splits.share(loaded.labels, workers, "shuffled", 0)  # raises before any work
    kept = splits.kept(len(signed), workers)
    for cell in todo:
        simulation.check_compressor(cell.make(), signed.shape[1])
    study_files.make_directory(logdir, "logdir")
    say(
        f"{loaded.name} ({loaded.place}): {len(kept)} of {len(signed)} examples, "
        f"{signed.shape[1]} features, {workers} workers"
    )
    with study_files.alone_in(logdir), refusing(MemoryError):
        minimum = problem.minimise(signed[kept], logdir)
    say(f"f* = {minimum.value:.12g}, |∇f(x*)| = {minimum.gradient_norm:.2g}")

    study = _Study(configuration, loaded, signed, minimum, logdir, say)
    if words := said_at_start(study.count(todo), "runs"):
        say(words)
    seeds = range(configuration.seed, configuration.seed + configuration.seeds)
    results = {cell: [study.result(cell, seed) for seed in seeds] for cell in todo}
    title = (
        f"{loaded.name}, {workers} workers, {_split_name(configuration)}, "
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    )
    with study_files.alone_in(logdir):
        return _report(configuration, results, title)


def _report(
    configuration: ConvexConfiguration,
    results: dict[Cell, list[tuple[dict[str, Any], figures.Curve]]],
    title: str,
) -> dict[str, Any]:
    """Writes tables and figures; returns what `run` does."""
    logdir = Path(configuration.logdir)
    rows = [row for runs in results.values() for row, _ in runs]
    run_files.write_table(logdir / "summary.csv", rows)
    curves: dict[str, list[figures.Curve]] = {}
    diverged, away = [], []
    for cell, runs in results.items():
        for row, curve in runs:
            name = f"{cell.label} seed {row['seed']}"
            if row["status"] == "diverged":
                diverged.append(name)
                continue
            curves.setdefault(cell.label, []).append(curve)
            if row["status"] == run_files.MOVED_AWAY:
                away.append(f"{name}: {_away(curve)}")
    if curves:
        run_files.write_table(logdir / "curves.csv", figures.mean_and_spread(curves))
        figures.draw_curves(curves, title, logdir / "curves")
    if configuration.sweep:
        figures.draw_trade_off(
            rows, configuration.goal_suboptimality, title, logdir / "trade_off"
        )
    return {"diverged": diverged, "moved_away": away, "rows": rows}


def _away(curve: figures.Curve) -> str:
    """How far a run moved away, in words."""
    found = run_files.moved_away(curve["suboptimality"])
    if found is None:
        return ""
    record, best, last = found
    return (
        f"f - f* = {last:.3g} at the end, {best:.3g} about iteration "
        f"{curve['step'][record]:g}"
    )


class _Study:
    """Runs one cell and seed at a time."""

    def __init__(
        self,
        configuration: ConvexConfiguration,
        loaded: data.Data,
        signed: np.ndarray,
        minimum: problem.Minimum,
        logdir: Path,
        say: Callable[[str], None],
    ) -> None:
        self._configuration, self._say, self._logdir = configuration, say, logdir
        self._labels, self._signed, self._minimum = loaded.labels, signed, minimum
        self._problem: tuple[int, problem.Problem] | None = None
        settings = {
            name: value
            for name, value in configuration.as_dict().items()
            if name not in _NOT_OF_A_RUN
        }
        settings["minimum"] = minimum.value
        self._settings = settings
        self._done = self._total = 0
        self._pace = StudyProgress(0)

    def count(self, todo: list[Cell]) -> int:
        """Runs that are finished; from now on others are counted beside them."""
        seeds = range(self._configuration.seeds)
        first = self._configuration.seed
        self._total = len(todo) * len(seeds)
        self._done = sum(
            run_files.is_finished(self._directory(cell, first + seed))
            for cell in todo
            for seed in seeds
        )
        self._pace = StudyProgress(self._done)
        return self._done

    def result(self, cell: Cell, seed: int) -> tuple[dict[str, Any], figures.Curve]:
        """A run's line of the summary and its records, done now or earlier."""
        directory = self._directory(cell, seed)
        if not run_files.is_finished(directory):
            with study_files.alone_in(directory):
                if not run_files.is_finished(directory):  # by another process
                    self._run(cell, seed, directory)
        row, curve = run_files.read(directory)
        away = run_files.moved_away(curve["suboptimality"])
        if away and row["status"] == "finished":  # A file says how the run ended.
            row["status"] = run_files.MOVED_AWAY
        goal = self._configuration.goal_suboptimality * curve["suboptimality"][0]
        reached = np.flatnonzero(curve["suboptimality"] <= goal)
        for name in ("step", "bits", "encoded_bits"):
            row[f"{name}_to_goal"] = curve[name][reached[0]] if len(reached) else ""
        return row, curve

    def _directory(self, cell: Cell, seed: int) -> Path:
        # A name that other settings do not share, so that none is taken for this one.
        settings = self._settings_of(cell) | {"cell": dataclasses.astuple(cell)[:3]}
        if cell.compressor in CONTROLS:
            source = self._source(cell)
            settings["copies"] = self._configuration.threshold
            if source.method == "ef21-sgdm":  # which other methods run decides
                settings["copies_method"] = source.method
        text = json.dumps(settings, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        name = f"{cell.file_name}-seed{seed}-{digest}"
        return self._logdir / "runs" / name

    def _run(self, cell: Cell, seed: int, directory: Path) -> None:
        configuration = self._configuration
        schedule = None
        if cell.compressor in CONTROLS:
            schedule = self._copied(cell, seed)
        start = np.zeros(len(self._minimum.point))
        if configuration.start_offset is not None:
            start = self._minimum.point + configuration.start_offset
        began = time.perf_counter()
        trace = simulation.run(
            self._of_seed(seed),
            self._method(cell),
            cell.make(),
            start=start,
            iterations=configuration.train_iterations,
            interval=configuration.check_interval,
            step_size=configuration.step_size,
            seed=seed,
            schedule=schedule,
            progress=self._progress(cell, seed, began),
        )
        seconds = time.perf_counter() - began
        row = {
            "method": cell.method,
            "compressor": cell.compressor,
            "setting": cell.setting,
            "seed": seed,
            **run_files.summary(trace),
            "seconds": round(seconds, 2),
        }
        run_files.write(directory, self._settings_of(cell), row, trace)
        away = run_files.moved_away(trace.suboptimality)
        is_away = away is not None and trace.status == "finished"
        status = run_files.MOVED_AWAY if is_away else trace.status
        self._done += 1
        self._say(
            f"{cell.label}, seed {seed}: {status} after {trace.step[-1]} "
            f"iterations, f - f* = {trace.suboptimality[-1]:.3g}, "
            f"{trace.encoded_bits[-1]:.3g} bits per worker with indices and headers, "
            f"{seconds:.1f} s; {self._pace.words(self._done, self._total)}"
        )

    def _method(self, cell: Cell) -> Method:
        method, local_steps = METHODS[cell.method], self._configuration.local_steps
        if method.local_steps is None or local_steps is None:
            return method
        return dataclasses.replace(method, local_steps=local_steps)

    def _settings_of(self, cell: Cell) -> dict[str, Any]:
        local_steps = self._method(cell).local_steps
        own = {} if local_steps is None else {"local_steps": local_steps}
        return self._settings | own

    def _source(self, cell: Cell) -> Cell:
        """The hard threshold whose volume a control has.

        ef21-sgdm compresses in other units, so it takes ec-sgd's where that runs.
        """
        methods = self._configuration.methods
        is_ef21 = cell.method == "ef21-sgdm" and "ec-sgd" in methods
        return Cell(
            "ec-sgd" if is_ef21 else cell.method,
            "hard_threshold",
            (("threshold", self._configuration.threshold),),
        )

    def _copied(self, cell: Cell, seed: int) -> np.ndarray:
        """The schedule with the volume of the hard threshold."""
        source = self._source(cell)
        row, _ = self.result(source, seed)
        entries = run_files.read_entries(self._directory(source, seed))
        if row["status"] == "diverged":
            raise Refusal(
                f"{cell.label} copies the volume of a run that diverged: "
                f"{source.label}, seed {seed}. Pass a smaller --step_size."
            )
        return SCHEDULES[cell.compressor](entries, len(self._minimum.point))

    def _of_seed(self, seed: int) -> problem.Problem:
        """The problem as this seed shares it out; the last one is kept."""
        if self._problem is None or self._problem[0] != seed:
            configuration = self._configuration
            shares = splits.share(
                self._labels,
                configuration.workers,
                configuration.split,
                seed,
                configuration.dirichlet_alpha,
            )
            self._problem = None  # the old one goes before the new one comes
            with refusing(MemoryError):
                shared = problem.share_out(self._signed, shares, self._minimum)
            self._problem = seed, shared
        return self._problem[1]

    def _progress(self, cell: Cell, seed: int, began: float) -> Callable[[int], None]:
        iterations, last = self._configuration.train_iterations, [began]

        def progress(step: int) -> None:
            now = time.perf_counter()
            if now - last[0] >= 10 and step < iterations:  # a line every ten seconds
                last[0] = now
                left = (now - began) * (iterations / step - 1)
                self._say(
                    f"{cell.label}, seed {seed}: {step}/{iterations}  {left:.0f} s left"
                )

        return progress


def _split_name(configuration: ConvexConfiguration) -> str:
    if configuration.split == "dirichlet":
        return f"dirichlet split {configuration.dirichlet_alpha:g}"
    return f"{configuration.split} split"
