"""Several processes on one study: started together, ended together."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

from tem_studies import program
from tem_studies.missing_packages import importing
from tem_studies.quiet_start import start_tensorflow
from tem_studies.refusal import Refusal

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
        Refusal: a process failed; it has printed why.
        BrokenPipeError: nobody reads the output any longer.
    """
    context = multiprocessing.get_context("spawn")
    # Read by the child once it is ready: `work` is found where TensorFlow is imported.
    content = pickle.dumps((work, study))
    processes = [
        context.Process(target=_work_as_child, args=(content, share, os.getpid()))
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
            if any(p.exitcode == program.PIPE_CLOSED for p in failed):
                raise BrokenPipeError
            if failed:
                raise Refusal(
                    "A process of --parallel_trials ended with exit code "
                    f"{failed[0].exitcode}; see above. What is finished is kept."
                )
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work_as_child(content: bytes, threads: int, parent: int) -> None:
    def keep_on() -> None:
        # A parent that was killed cannot end its children.
        if os.getppid() != parent:
            raise SystemExit(1)

    try:
        start_tensorflow()
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        with importing():
            work, study = pickle.loads(content)
        work(study, keep_on)
        sys.stdout.flush()
    except KeyboardInterrupt:
        raise SystemExit(program.INTERRUPTED) from None
    except BrokenPipeError:
        program.close_output()
        raise SystemExit(program.PIPE_CLOSED) from None
    except Refusal as refusal:
        raise SystemExit(f"{program.name()}: error: {refusal}") from None
