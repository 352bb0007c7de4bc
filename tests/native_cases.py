"""What a native selection must give, by TensorFlow's operations, and both as bits."""

import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf import native
from tem_tf.layout import make_segments, pack
from tem_tf.native import ops
from tests.alone import step_alone

needs_native = pytest.mark.skipif(
    native.library() is None, reason=f"native kernels: {native.status().reason}"
)


def bits(array):
    """Floats as integers, so that -0 is not 0."""
    return np.asarray(array, np.float32).reshape(-1).view(np.uint32)


def by_operations(compressor, gradients, residuals, step=0, memory=None):
    """(values, indices, residual) of the packed vector, all by TensorFlow."""
    segments = make_segments(
        [str(i) for i in range(len(gradients))], [np.shape(g) for g in gradients]
    )
    memory, step = memory or tem_tf.ErrorFeedback(), tf.constant(step, tf.int64)
    held, vectors = (
        [tf.constant(np.ravel(part), tf.float32) for part in parts]
        for parts in (residuals, gradients)
    )
    state = {"residual": held}
    corrected = memory.compensate(state, vectors, step, segments)
    done = step_alone(compressor, (), corrected, step, segments, vectors)
    state = memory.update(state, corrected, done.own, step, segments)
    message = done.message
    residual = pack(state["residual"])
    return message.values.numpy(), message.indices.numpy(), residual.numpy()


def by_kernels(
    compressor,
    gradients,
    residuals,
    step=0,
    *,
    small=(),
    threads=0,
    zero=False,
    factor=1.0,
    **options,
):
    """`ops.Selected`, as arrays, and the residuals as one vector."""
    variables = [tf.Variable(tf.constant(r, tf.float32)) for r in residuals]
    common = {
        "library": native.library(),
        "gradients": [tf.constant(g, tf.float32) for g in gradients],
        "small": [tf.constant(s, tf.float32) for s in small],
        "kept": ops.Kept([variable.handle for variable in variables], factor=factor),
        "zero_nonfinite": zero,
        "threads": threads,
        **options,
    }
    sizes = [np.size(gradient) for gradient in gradients]
    if isinstance(compressor, tem_tf.HardThreshold):
        found = ops.select_threshold(threshold=compressor.threshold, **common)
    elif isinstance(compressor, tem_tf.TopK):
        scopes = sizes if compressor.scope == "layer" else [sum(sizes)]
        counts = [compressor.count(size, tf.constant(step)) for size in scopes]
        found = ops.select_topk(counts=counts, **common)
    else:
        given = compressor.draw(sum(sizes), tf.constant(step))
        found = ops.select_given(given=given, **common)
    left = [np.reshape(variable.numpy(), -1) for variable in variables]
    return ops.Selected(*(np.array(x) for x in found)), np.concatenate(left)


def assert_same(compressor, gradients, residuals, step=0, decay=None, **options):
    """Values, indices and residuals are equal, bit for bit; returns `ops.Selected`."""
    memory = None if decay is None else tem_tf.DecayingErrorFeedback(decay)
    values, indices, residual = by_operations(
        compressor, gradients, residuals, step, memory
    )
    options["factor"] = 1.0 if decay is None else decay
    found, left = by_kernels(compressor, gradients, residuals, step, **options)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_array_equal(bits(found.values), bits(values))
    np.testing.assert_array_equal(bits(left), bits(residual))
    return found
