"""One worker that forecasts what rows of time_to_target.py take, without training any.

A request is a job's file and rows, each its name, way and settings. Answers with the
link as sums and as gathers see it, and each row's `Cost`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from time_to_target_data import load
from time_to_target_keras import exchange_of
from worker_group import serve

import tem_tf
from tem_tf.forecast.costs import Cost
from tem_tf.forecast.measuring import measure_link, measure_way

Rows = Sequence[tuple[str, str, dict[str, Any]]]


def forecast(request: tuple[str, Rows]) -> tuple[Any, Any, list[Cost]]:
    """Measures the link and each row's own work. Collective."""
    path, rows = request
    shapes = [weights.shape for weights in load(path).weights]
    size = sum(weights.size for weights in load(path).weights)
    strategy = tem_tf.MultiWorkerMirroredStrategy()
    sums, gathers = measure_link(strategy, 4 * size)
    costs = []
    for name, way, settings in rows:
        if way == "dense":
            costs.append(Cost(name, summed=4.0 * size))
            continue
        exchange = exchange_of(way, settings)
        period = settings.get("local_steps", 1)
        compressor = exchange.pop("compressor")
        costs.append(
            measure_way(name, compressor, shapes, period, strategy, **exchange)
        )
    return tuple(sums), tuple(gathers), costs


if __name__ == "__main__":
    serve(forecast)
