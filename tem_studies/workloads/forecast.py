"""`tem-tf predict`: what a step of a run would take, by every way to exchange."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

import tem_tf
from tem_studies import missing_packages
from tem_studies.workloads import data_places, own_parts
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.environment import Start
from tem_studies.workloads.optimizers import make_optimizer
from tem_studies.workloads.replicas import make_strategy
from tem_studies.workloads.tasks import KINDS
from tem_studies.workloads.training import Trainer
from tem_tf.forecast import forecast_of


def run(
    configuration: Configuration,
    source: data_places.Source,
    start: Start,
    link: tuple[float, float] | None,
    figure: str | None,
) -> str:
    """Measures, and makes the chief's table. Collective between processes.

    Args:
        configuration: Of the run. Its workers are those of the forecast, where there is
            one process.
        source: Where its data is.
        start: How workers start, where there are several.
        link: Mbit/s and milliseconds between two workers; None: measured.
        figure: Path of a PNG, or None.
    """
    own_parts.check(configuration)
    workers = configuration.workers
    alone = dataclasses.replace(
        configuration,
        workers=1,
        batch_size=max(1, configuration.batch_size // workers),
        target_sparsity=0.0,
    )
    data = KINDS[alone.kind].load(source)
    strategy = make_strategy(alone, start)
    replicas = strategy.num_replicas_in_sync
    if replicas > 1:
        batch = alone.batch_size // replicas
        alone = dataclasses.replace(alone, batch_size=max(1, batch))
        workers = replicas
    task = KINDS[alone.kind].make(alone, data, 1)
    model = task.new_model()
    shapes = [tuple(variable.shape) for variable in model.trainable_variables]

    optimizer = make_optimizer(alone, task.steps_per_epoch)
    trainer = Trainer(
        tf.distribute.get_strategy(), model, optimizer, task.train, alone.batch_size
    )
    trainer.compile()

    def step() -> None:
        # Of one worker that exchanges nothing, update included.
        trainer.run(task.take(1))
        trainer.read_meters()

    given = link and tem_tf.Link(link[0] * 1e6 / 8, link[1] * 1e-3)
    found = forecast_of(shapes, step, strategy, link=given, workers=workers)
    if not tem_tf.is_chief():
        return ""
    if figure is not None:
        with missing_packages.importing():
            from tem_studies.workloads import forecast_figure

        forecast_figure.draw(found, figure)
    return found.table()
