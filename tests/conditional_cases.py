"""Which steps are skipped or held back in tests, and by what compression."""

import numpy as np

import tem_tf
from tests.steps import dyadic

SKIPPING = {
    "skip": {"nonfinite": "skip"},
    "number": {"loss_scale": 1024.0},
    "dynamic": {"loss_scale": "dynamic"},
    "dynamic_and_skip": {"loss_scale": "dynamic", "nonfinite": "skip"},
}
WAYS = {
    "threshold": (tem_tf.HardThreshold(0.5), "auto"),
    "topk": (tem_tf.TopK(0.25), "auto"),
    "random_k": (tem_tf.RandomK(0.25, seed=1), "auto"),
    "accordion_dgc": (
        tem_tf.Accordion(0.1, 0.5, interval_steps=2),
        tem_tf.MomentumCorrection(0.5),
    ),
    "threshold_ef21": (tem_tf.HardThreshold(0.5), tem_tf.EF21()),
    "powersgd": (tem_tf.PowerSGD(1), "auto"),
    "sign": (tem_tf.Sign(), "auto"),
    "no_memory": (tem_tf.TopK(0.5), None),
    "identity": (tem_tf.Identity(), "auto"),
    "identity_with_memory": (tem_tf.Identity(), tem_tf.MomentumCorrection(0.5)),
}


def overflowing(replicas, steps=12, where=7):
    """Gradients of which one replica's are not finite at one step, and without it."""
    gradients = dyadic(steps, replicas)
    without = np.delete(gradients, where, axis=0)
    gradients[where, -1, 3] = np.inf
    return gradients, without
