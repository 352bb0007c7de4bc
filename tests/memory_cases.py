"""The table of memories that every law is tried on. A new one is a new row."""

import dataclasses

import keras
import tensorflow as tf

import tem_tf
from tem_tf.layout import each

MEMORIES = {
    "error_feedback": tem_tf.ErrorFeedback(),
    "decaying": tem_tf.DecayingErrorFeedback(0.5),
    "dgc": tem_tf.MomentumCorrection(0.5),
    "dgc_unmasked": tem_tf.MomentumCorrection(0.75, masking=False),
    "ef21": tem_tf.EF21(),
    "ef21_sgdm": tem_tf.EF21SGDM(0.25),
}


@keras.saving.register_keras_serializable(package="tests")
@dataclasses.dataclass(frozen=True)
class ErrorFeedback21(tem_tf.Memory):
    """EF21 (Richtarik et al., 2021): what is sent corrects an estimate h.

    p = g - h_i;  h_i += s;  h += sum of s;  d = h. Its `apply` has a state.
    """

    def init(self, segments):
        start = [tf.zeros([segment.size]) for segment in segments]
        return {"own": start, "sum": start}

    def compensate(self, state, gradient, step, segments):
        return [g - own for g, own in zip(gradient, state["own"], strict=True)]

    def update(self, state, corrected, own, step, segments):
        estimate = [h + s for h, s in zip(state["own"], own, strict=True)]
        return {**state, "own": estimate}

    def apply(self, state, total, step, segments):
        estimate = [h + s for h, s in zip(state["sum"], total, strict=True)]
        return estimate, {**state, "sum": estimate}


@keras.saving.register_keras_serializable(package="tests")
class CountsSteps(tem_tf.Memory):
    """Sends each gradient times the number of its step, from 1: it keeps a scalar."""

    def init(self, segments):
        return {
            "steps": tf.constant(0.0),
            "last": [tf.zeros([s.size]) for s in segments],
        }

    def compensate(self, state, gradient, step, segments):
        return each(lambda g: g * (state["steps"] + 1), gradient)

    def update(self, state, corrected, own, step, segments):
        return {"steps": state["steps"] + 1, "last": own}


KEEPING = {**MEMORIES, "counts": CountsSteps(), "ef21_of_a_user": ErrorFeedback21()}
