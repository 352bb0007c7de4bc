"""One worker of a test: makes the strategy once, then runs the functions it is sent.

Started by harness.py as `python -m tests.multi_worker.worker DESCRIPTOR`, with
TF_CONFIG in its environment and a pipe to the tests under that descriptor.
"""

import ctypes
import faulthandler
import importlib
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when the tests end, however they end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It ended before we asked.
        os._exit(1)


def to_numpy(result):
    """Turns every tensor of a nested result into an array, which can be sent."""
    import keras
    import tensorflow as tf

    def convert(leaf):
        if isinstance(leaf, tf.distribute.DistributedValues):
            raise TypeError(
                "A law must return this worker's own values. "
                f"Received: {type(leaf).__name__}. Use strategy.reduce, "
                "strategy.gather or strategy.experimental_local_results."
            )
        if isinstance(leaf, (tf.Tensor, tf.Variable, keras.Variable)):
            return leaf.numpy()
        return leaf

    return tf.nest.map_structure(convert, result)


def find(module: str, qualified_name: str):
    """Imports a module-level function."""
    function = importlib.import_module(module)
    for name in qualified_name.split("."):
        function = getattr(function, name)
    return function


def serve(connection: Connection) -> None:
    """Runs one function after another until the tests hang up."""
    import keras

    import tem_tf

    strategy = tem_tf.MultiWorkerMirroredStrategy()
    connection.send((True, None))
    while True:
        try:
            module, qualified_name, arguments = connection.recv()
        except EOFError:
            return
        try:
            # Layers and variables get the same names whatever ran before.
            keras.utils.clear_session()
            result = to_numpy(find(module, qualified_name)(strategy, *arguments))
            connection.send((True, result))
        except Exception:  # Whatever a law raises belongs to the test.
            connection.send((False, traceback.format_exc()))


def main() -> None:
    """Serves on the descriptor of the command line."""
    descriptor, parent = map(int, sys.argv[1:])
    die_with_parent(parent)
    # On SIGUSR1 a worker says where it hangs.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    faulthandler.enable()
    connection = Connection(descriptor)
    try:
        serve(connection)
    except BaseException:
        connection.send((False, traceback.format_exc()))
        raise
    finally:
        sys.stderr.flush()
        # Without the cluster's farewell, which waits for the others.
        os._exit(0)


if __name__ == "__main__":
    main()
