"""Several processes on one study: started together, ended together."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tem_studies import missing_packages

Work = Callable[[Any, Callable[[], None]], None]


def run_in_processes(work: Work, study: Any, count: int, threads: int) -> None:
    """Starts processes that each do `work`, and waits; a failure ends them all.

    Args:
        work: Takes `study` and a function that raises once its process should end. Both
            can be pickled; `work` is a function of a module.
        study: Whatever `work` takes.
        count: Number of processes.
        threads: Processor threads for one operation; 0: the processors shared evenly.

    Raises:
        ValueError: a process failed; it has printed why.
    """
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_work_as_child, args=(work, study, share, os.getpid()))
        for share in [threads or max(1, (os.cpu_count() or 1) // count)] * count
    ]
    for process in processes:
        process.start()
    waiting = list(processes)
    try:
        while waiting:
            multiprocessing.connection.wait([p.sentinel for p in waiting])
            waiting = [p for p in waiting if p.exitcode is None]
            failed = [p for p in processes if p.exitcode not in (None, 0)]
            if failed:
                raise ValueError(
                    "A process of --parallel_trials ended with exit code "
                    f"{failed[0].exitcode}; see above. What is finished is kept."
                )
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work_as_child(work: Work, study: Any, threads: int, parent: int) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)

    def keep_on() -> None:
        # A parent that was killed cannot end its children.
        if os.getppid() != parent:
            raise SystemExit(1)

    try:
        work(study, keep_on)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (ValueError, OSError, ImportError) as error:  # as main.py has it
        words = missing_packages.in_words(error)
        raise SystemExit(f"main.py: error: {words}") from None
