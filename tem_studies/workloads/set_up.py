"""What one run needs before it can begin: the other workers, the data, the network."""

from __future__ import annotations

from tem_studies.refusal import refusing
from tem_studies.workloads import data_places, own_parts
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.environment import AS_USUAL, Start, check_workers
from tem_studies.workloads.experiment import Experiment
from tem_studies.workloads.replicas import make_strategy, refuse_on_all_workers
from tem_studies.workloads.results import Stopwatch
from tem_studies.workloads.tasks import KINDS
from tem_tf import require_same_on_all_workers


def set_up(
    configuration: Configuration,
    source: data_places.Source | None = None,
    refusal: str | None = None,
    start: Start = AS_USUAL,
    resume_interval: int | None = None,
) -> Experiment:
    """Joins the other workers, reads the data and builds everything. Collective.

    Call it before any other use of TensorFlow. Whatever a user can get wrong raises
    here at the latest, before any training.

    Args:
        configuration: The run's settings.
        source: Where the data is, if that is known already.
        refusal: Of the chief: why the run must not start, or None.
        start: How workers start, where there are several.
        resume_interval: See `Experiment`.

    Raises:
        Refusal: naming what is wrong.
    """
    stopwatch = Stopwatch()
    check_workers(configuration)
    own_parts.check(configuration)
    kind, data = KINDS[configuration.kind], None
    with stopwatch("load"):
        source = source or data_places.locate(configuration)
        if not source.needs_tensorflow:
            data = kind.load(source)
    with stopwatch("build"):
        strategy = make_strategy(configuration, start)
        refuse_on_all_workers(strategy, refusal)
    if data is None:
        with stopwatch("load"):
            data = kind.load(source)
    checksum = {"checksum of the data": data.digest()}
    with refusing(ValueError):
        require_same_on_all_workers(strategy, checksum)
    return Experiment(configuration, strategy, data, stopwatch, resume_interval)
