"""Whether the order of a sum is left to chance: AddN in optimized graphs.

TensorFlow's graph optimizer makes one AddN of a + (b + c), where all have one shape and
nothing else reads b + c, and the tape adds up three gradients of one tensor by AddN. In
which order AddN adds depends on which buffer is free at that moment, so that with
several threads the same seed does not give the same bits. Two terms have one sum.
"""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context


def added_chains(function: Callable[..., Any], *args: Any) -> list[str]:
    """Runs a function once and lists sums of several floats without a fixed order.

    Args:
        function: Runs one or several `tf.function`s, or is one.
        *args: Its arguments.

    Returns:
        A line for each AddN of three or more floating-point tensors in the graphs as
        they are executed: how many, of what, and its name. Empty: every sum has the
        order in which it is written.

    Raises:
        AssertionError: no graph has run, so nothing was seen.
    """
    gc.collect()  # What earlier tests left running is none of this function's.
    context.context().enable_run_metadata()
    try:
        function(*args)
    finally:
        metadata = context.context().export_run_metadata()
        context.context().disable_run_metadata()
    graphs = [each.post_optimization_graph for each in metadata.function_graphs]
    assert any(graph.node for graph in graphs), "No graph has run."
    found = {_line(node) for graph in graphs for node in _nodes(graph) if _is_one(node)}
    return sorted(found)


def _nodes(graph: Any) -> Iterator[Any]:
    """Nodes of a graph and of the functions that it calls."""
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _is_one(node: Any) -> bool:
    if node.op != "AddN" or node.attr["N"].i < 3:
        return False
    return tf.as_dtype(node.attr["T"].type).is_floating


def _line(node: Any) -> str:
    dtype = tf.as_dtype(node.attr["T"].type).name
    return f"{node.attr['N'].i} x {dtype}: {node.name}"
