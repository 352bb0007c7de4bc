"""The table of compressors that every law is tried on. A new one is a new row."""

import dataclasses

import tensorflow as tf

import tem_tf

COMPRESSORS = {
    "identity": tem_tf.Identity(),
    "hard_threshold": tem_tf.HardThreshold(0.5),
    "hard_threshold_sends_none": tem_tf.HardThreshold(1e30),
    "hard_threshold_sends_all": tem_tf.HardThreshold(1e-30),
    "topk_layer": tem_tf.TopK(density=0.3),
    "topk_layer_k": tem_tf.TopK(k=2),
    "topk_model": tem_tf.TopK(density=0.3, scope="model"),
    "topk_model_all": tem_tf.TopK(density=1.0, scope="model"),
    "random_k": tem_tf.RandomK(0.3, seed=1),
    "hard_threshold_ramp": tem_tf.HardThreshold(tem_tf.Ramp(1.0, 0.25, steps=6)),
    "topk_warmup": tem_tf.TopK(tem_tf.Piecewise((1, 5), (1.0, 0.5, 0.2))),
    "topk_ramp_model": tem_tf.TopK(tem_tf.Ramp(0.5, 0.1, steps=4), scope="model"),
    "topk_schedule": tem_tf.TopKSchedule([12, 3, 0, 1, 2]),
    "random_k_ramp": tem_tf.RandomK(tem_tf.Ramp(0.5, 0.1, steps=4), seed=1),
    "accordion": tem_tf.Accordion(0.2, 0.5, interval_steps=2),
    "adaptive_threshold": tem_tf.AdaptiveThreshold(0.3, steps=4),
}


@dataclasses.dataclass(frozen=True)
class EveryOther(tem_tf.Compressor):
    """Sends even entries at one call and odd ones at the next: it has a state."""

    def init(self, segments):
        return {"turn": tf.constant(0, tf.int32)}

    def select(self, vector, segments, step, state):
        mask = tf.range(tf.size(vector)) % 2 == state["turn"] % 2
        return mask, {"turn": state["turn"] + 1}


@dataclasses.dataclass(frozen=True)
class ErrorFeedback21(tem_tf.Memory):
    """EF21 (Richtarik et al., 2021): what is sent corrects an estimate h.

    p = g - h_i;  h_i += s;  h += sum of s;  d = h. Its `apply` has a state.
    """

    def init(self, segments):
        size = sum(s.size for s in segments)
        return {"own": tf.zeros([size]), "sum": tf.zeros([size])}

    def compensate(self, state, gradient):
        return gradient - state["own"]

    def update(self, state, corrected, sent):
        return {**state, "own": state["own"] + sent}

    def apply(self, state, aggregate):
        total = state["sum"] + aggregate
        return total, {**state, "sum": total}
