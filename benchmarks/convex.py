r"""Speed and memory of the convex laboratory beside a plain numpy loop over workers.

    python benchmarks/convex.py [--examples 6000] [--features 5000] [--workers 20]

EC-SGD with a hard threshold on made-up data. f - f* and the distance to x* are measured
every 10 iterations; k_t, ‖e‖² and max|e| of every worker at every iteration. The numpy
loop takes one worker after the other, one BLAS product for its gradient, and one
product with the whole data for each f. The two alternate; the median of the ratios
counts. Both must end at the same x.

OpenBLAS takes all cores in both. TensorFlow has one thread within an operation unless
--threads says otherwise: at 20 × 5,000 entries a second one costs more than it saves,
and operations that do not wait for one another run side by side all the same. Unset
OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE where they are set: they slow numpy.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np
import tensorflow as tf

from tem_studies.convex import data, methods, problem, simulation, splits
from tem_tf.compressors import HardThreshold

INTERVAL = 10


def numpy_loop(
    signed: np.ndarray, minimum: problem.Minimum, example: np.ndarray, threshold: float
) -> np.ndarray:
    """EC-SGD from 0 with a loop over workers; returns the last x."""
    workers, _, dimension = signed.shape
    l2 = minimum.l2
    step_size = 1 / (minimum.smoothness + l2)
    flat = signed.reshape(-1, dimension)
    x, errors = np.zeros(dimension), np.zeros((workers, dimension))
    records, measures = [], np.zeros((len(example), workers, 3))
    for t, chosen in enumerate(example, 1):
        direction = np.zeros(dimension)
        for i in range(workers):
            row = signed[i, chosen[i]]
            gradient = l2 * x - row * (1 / (1 + np.exp(row @ x)))
            corrected = errors[i] + step_size * gradient
            sent = np.where(np.abs(corrected) >= threshold, corrected, 0)
            errors[i] = corrected - sent
            direction += sent
            kept = errors[i]
            measures[t - 1, i] = np.count_nonzero(sent), kept @ kept, np.abs(kept).max()
        x -= direction / workers
        if t % INTERVAL == 0:
            loss = np.logaddexp(0, -(flat @ x)).mean() + l2 / 2 * (x @ x)
            distance = x - minimum.point
            records.append((loss - minimum.value, distance @ distance))
    return x


def main() -> None:
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=6000)
    parser.add_argument("--features", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=3000)
    parser.add_argument("--threshold", type=float, default=5e-3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--skip_numpy", action="store_true")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)

    made = data.made_up(arguments.examples, arguments.features)
    signed = made.signed
    shares = splits.share(made.labels, arguments.workers, "shuffled", 0)
    del made
    # The speed does not depend on where x* is, so it is not looked for here.
    smoothness = problem.largest_singular_value(signed) ** 2 / (4 * len(signed))
    l2 = problem.L2_FACTOR * smoothness
    minimum = problem.Minimum(np.zeros(signed.shape[1]), 0.0, 0.0, smoothness, l2)
    shared = problem.share_out(signed, shares, minimum)
    if arguments.skip_numpy:
        del signed
    method = methods.METHODS["ec-sgd"]
    compressor = HardThreshold(arguments.threshold)

    def ours(iterations: int) -> np.ndarray:
        return simulation.run(
            shared,
            method,
            compressor,
            start=np.zeros(shared.dimension),
            iterations=iterations,
            interval=INTERVAL,
        ).point

    began = time.perf_counter()
    ours(arguments.iterations)
    result = {
        **vars(arguments),
        "first_run_seconds": round(time.perf_counter() - began, 2),
    }
    example = simulation.draws(method, shared, arguments.iterations, 0).example
    pairs, difference = [], 0.0
    for _ in range(arguments.repeats):
        began = time.perf_counter()
        x = ours(arguments.iterations)
        middle = time.perf_counter()
        if arguments.skip_numpy:
            pairs.append((middle - began, float("nan")))
            continue
        plain = numpy_loop(signed[shares], minimum, example, arguments.threshold)
        pairs.append((middle - began, time.perf_counter() - middle))
        difference = max(difference, float(np.abs(plain - x).max()))
    result["seconds"] = round(statistics.median(pair[0] for pair in pairs), 2)
    if not arguments.skip_numpy:
        result["numpy_seconds"] = round(statistics.median(p[1] for p in pairs), 2)
        result["ratio"] = round(statistics.median(b / a for a, b in pairs), 2)
        result["greatest_difference_of_x"] = difference
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result["peak_megabytes"] = round(peak * 1024 / 1e6)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
