"""The least bits at nearly dense quality: a GPT, four simulated workers, a search.

    python studies/frontier/simulate.py TEXT --out FOLDER --seconds 480
    python studies/frontier/simulate.py TEXT --time      # how long the parts take
    python studies/frontier/simulate.py --report FOLDER  # the tables again

TEXT is tiny Shakespeare's input.txt. FOLDER gets results.csv and curves.csv, written
after every batch of trainings; a run that finds them goes on from there. Needs JAX and
NumPy, and an accelerator for more than rehearsals (--rehearse).

Trainings with several configurations and seeds are one array program: what differs
between them is in arrays, so that there is little to compile.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

import configurations  # noqa: E402
import results  # noqa: E402
from configurations import STEPS, TUNING_SEED, Configuration  # noqa: E402

WARM_UP = 100
EVERY = 250  # Steps between losses on a part of the validation split.
WINDOWS_AT_ONCE = 134  # 13 times, all of the validation split.
# Not to be ahead of the accelerator by more, for times that are true.
AHEAD = 25
# Of the time, until when configurations are looked for: then come further seeds.
TUNING = 0.6
Trained = tuple[Configuration, int]


def main() -> None:
    """Searches until the time is out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=pathlib.Path, nargs="?")
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--tuning", type=float, default=TUNING)
    parser.add_argument("--at-once", type=int, default=16, help="trainings in a batch")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--activations", default="float32", help="or bfloat16")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--rehearse", action="store_true", help="a tiny model")
    parser.add_argument("--report", type=pathlib.Path)
    options = parser.parse_args()
    if options.report:
        print(results.report(results.load(options.report / "results.csv")))
        return
    Simulation(options).run()


class Simulation:
    """Trains what the search wants, in batches, while there is time."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Reads the text and what earlier runs have left."""
        self.began = time.monotonic()
        # Fewer kernels to choose among, so that compiling takes seconds.
        os.environ.setdefault("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=false")
        import jax
        import model

        self.options = options
        self.job = model.Job(activations=options.activations)
        if options.rehearse:
            self.job = self.job._replace(
                layers=1, heads=2, width=32, context=16, batch=2
            )
        self.text = model.read_text(options.text, self.job.context)
        if options.rehearse:
            self.text = self.text._replace(windows=self.text.windows[::100])
        self.size = model.size(self.job)
        self.matrices = model.matrices(self.job)
        self.rows = results.load(options.out / "results.csv")
        self.curves = load_curves(options.out / "curves.csv")
        self.seconds_of_batch: dict[str, float] = {}
        self.compiled = 0
        jax.monitoring.register_event_duration_secs_listener(self._count)
        print(f"{jax.devices()[0]}, {self.size} parameters, {self.job}", flush=True)

    def _count(self, event: str, duration_secs: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration") and duration_secs > 1:
            self.compiled += 1
            print(f"  compiled something in {duration_secs:.1f} s", flush=True)

    def run(self) -> None:
        """All of the search, or as much as there is time for."""
        if self.options.time:
            return self.time()
        until = self.options.seconds * self.options.tuning
        for wave in (
            lambda rows: configurations.first(),
            *(configurations.second, configurations.third, configurations.third),
        ):
            wanted = wave([row for row in self.rows if row["seed"] == TUNING_SEED])
            self.train_all([(one, TUNING_SEED) for one in wanted], until)
        self.train_all(configurations.repeats(self.rows), self.options.seconds)
        print(f"{self.elapsed():.0f} s, {self.compiled} programs took over a second.")
        print(results.report(self.rows))

    def elapsed(self) -> float:
        """Seconds since the beginning, imports included."""
        return time.monotonic() - self.began

    def train_all(self, wanted: Sequence[Trained], until: float) -> None:
        """Trains what has not been, in batches of one family, before `until`."""
        left = self._not_trained(wanted)
        while left:
            family, period = left[0][0].family, left[0][0].period
            # Rounds are made for all of a batch: those of one period first.
            batch = left[: 3 * self.options.at_once]
            batch = [one for one in batch if one[0].family == family]
            batch.sort(key=lambda one: one[0].period != period)
            batch = batch[: self.options.at_once]
            expected = self.elapsed() + self.seconds_of_batch.get(family, 0.0)
            if expected > until:
                print(f"{self.elapsed():.0f} s: {len(left)} left out at {until:.0f} s.")
                return
            left = [one for one in left if one not in batch]
            more = self._not_trained(configurations.repeats(self.rows))
            more = [one for one in more if one[0].family == family and one not in batch]
            self._train_batch(batch + more[: self.options.at_once - len(batch)])
            left = self._not_trained(left)

    def _not_trained(self, wanted: Sequence[Trained]) -> list[Trained]:
        done = {(row["configuration"], row["seed"]) for row in self.rows}
        return [one for one in dict.fromkeys(wanted) if one not in done]

    def _train_batch(self, batch: Sequence[Trained]) -> None:
        began = time.monotonic()
        # Always as many, so that nothing is compiled again.
        full = [*batch, *[batch[0]] * (self.options.at_once - len(batch))]
        found, curves = self.train(full)
        seconds = time.monotonic() - began
        family = batch[0][0].family
        self.seconds_of_batch[family] = seconds  # The first time with compiling.
        for row in found[: len(batch)]:
            self.rows.append({**row, "seconds": round(seconds / len(batch), 3)})
        self.curves += curves[: len(batch)]
        self._save()
        steps = len(full) * self.job.workers * self.options.steps
        tera = 6 * self.size * self.job.batch * self.job.context * steps / 1e12
        best = min(found[: len(batch)], key=lambda row: row["loss"])
        print(
            f"{self.elapsed():.0f} s: {len(batch)} {family} in {seconds:.1f} s,"
            f" {1e3 * seconds / steps:.3f} ms for a worker's step,"
            f" {tera / seconds:.1f} TFLOP/s; the best has {best['loss']:.4f}"
            f" with {best['bits']:.3g} bits",
            flush=True,
        )

    def _save(self) -> None:
        self.options.out.mkdir(parents=True, exist_ok=True)
        results.save(self.options.out / "results.csv", self.rows)
        results.write_table(self.options.out / "curves.csv", self.curves)

    def train(
        self, batch: Sequence[Trained]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows of results and of curves, of trainings of one family."""
        import jax

        curves: list[dict[str, Any]] = [
            {**{name: getattr(one, name) for name in results.FIELD_NAMES}, "seed": seed}
            for one, seed in batch
        ]
        state = None
        for done, state in self.states(batch):
            if done % AHEAD == 0:
                jax.block_until_ready(state.m)
            if done % EVERY == 0 and done < self.options.steps:
                some = self.losses(self.model_of(state), 1)
                for curve, loss in zip(curves, some, strict=True):
                    curve[f"loss_{done}"] = loss
        assert state is not None
        volume = jax.device_get(state.volume)
        rows = []
        for number, loss in enumerate(self.losses(self.model_of(state))):
            messages = max(1.0, float(volume.messages[number]))
            one, seed = batch[number]
            row = {
                "configuration": one,
                "seed": seed,
                "loss": loss,
                "bits": float(volume.bits[number]) / self.options.steps,
                "entries": float(volume.entries[number]) / messages,
                "cut_mean": float(volume.cut[number]) / messages,
            }
            rows.append(row)
            curves[number]["bits"], curves[number]["loss"] = row["bits"], loss
        return rows, curves

    def states(self, batch: Sequence[Trained]) -> Iterator[tuple[int, Any]]:
        """Steps done and the state after them, of trainings of one family."""
        import jax.numpy as jnp
        import methods
        import model
        import numpy as np
        from messages import settings_of

        ones, workers = [one for one, _ in batch], self.job.workers
        seeds = jnp.array([seed for _, seed in batch], jnp.int32)
        rates = methods.rates_of(ones)
        settings = settings_of(ones, self.size, HERE / "wire_bits.csv")
        weights = model.initial(seeds, self.job)
        local = ones[0].family == "local"
        dense = [math.inf if one.method == "dense" else one.freeze for one in ones]
        start = methods.start_local if local else methods.start_shared
        state = start(weights, workers)
        for step in range(self.options.steps):
            now = np.int32(step)
            factor = np.float32(schedule(step, self.options.steps))
            own = state.weights if local else methods.spread(state.weights, workers)
            gradients = model.gradients(own, seeds, now, self.text.train, self.job)
            if local:
                state = methods.step_local(
                    *(state, gradients, now, factor, rates, self.matrices)
                )
                last = step + 1 == self.options.steps
                meets = [last or (step + 1) % one.period == 0 for one in ones]
                if any(meets):
                    state = methods.exchange(
                        *(state, np.array(meets), rates, settings), size=self.size
                    )
            else:
                state = methods.step_shared(
                    *(state, gradients, now, factor, rates, settings, self.matrices),
                    size=self.size,
                    compressing=any(step >= until for until in dense),
                )
            yield step + 1, state

    def model_of(self, state: Any) -> Any:
        """The model that all workers share: after the last round, if local."""
        return getattr(state, "snapshot", state.weights)

    def losses(self, weights: Any, parts: int | None = None) -> list[float]:
        """On the validation split, or so many parts of it; infinite for NaN."""
        import jax.numpy as jnp
        import model

        windows = self.text.windows
        count = max(1, math.ceil(len(windows) / WINDOWS_AT_ONCE))
        # Parts of one size, spread over the split; what is over is left out.
        split = [windows[part::count][: len(windows) // count] for part in range(count)]
        split = split[:parts]
        found = [model.losses(weights, jnp.asarray(part), self.job) for part in split]
        means = [float(loss) for loss in jnp.stack(found).mean(0)]
        return [loss if math.isfinite(loss) else math.inf for loss in means]

    def time(self) -> None:
        """Prints what steps of both families take, once everything is compiled."""
        import jax

        configurations_of = {
            "dense": Configuration("dense", 1e-3),
            "before, 1/64 in int2": Configuration("before", 1e-3, 1 / 64, value_bits=2),
            "local, H 30, int2": Configuration("local", 1e-3, value_bits=2, period=30),
            "local, H 1, 1/64 in int2": Configuration(
                *("local", 1e-3, 1 / 64), value_bits=2
            ),
        }
        steps = 30 if not self.options.rehearse else 4
        for name, one in configurations_of.items():
            states = self.states([(one, 0)] * self.options.at_once)
            began, state = time.monotonic(), None
            for done, state in states:
                if done in (2, 2 + steps):
                    jax.block_until_ready(state.m)
                if done == 2:
                    first, began = time.monotonic() - began, time.monotonic()
                if done == 2 + steps:
                    break
            seconds = (time.monotonic() - began) / steps
            each = seconds / self.options.at_once / self.job.workers
            print(
                f"{self.elapsed():.0f} s: {name}: {1e3 * seconds:.2f} ms a step,"
                f" {1e3 * each:.3f} ms for a worker's, {each * 8000:.2f} s for a"
                f" training; the first two steps {first:.1f} s",
                flush=True,
            )
            assert state is not None
            began = time.monotonic()
            self.losses(self.model_of(state))
            print(f"  losses in {time.monotonic() - began:.2f} s", flush=True)


def schedule(step: int, steps: int) -> float:
    """Of nanoGPT: linear warm-up, then a cosine down to a tenth."""
    warm_up = min(WARM_UP, steps // 20)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    share = (step - warm_up) / (steps - warm_up)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * share))


def load_curves(path: pathlib.Path) -> list[dict[str, Any]]:
    """What an earlier run has written."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
