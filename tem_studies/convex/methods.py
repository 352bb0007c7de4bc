r"""The error-compensated methods of the TEM study, one iteration of all workers.

Worker i at iteration t, with compressor C and step size γ (Sahu et al., NeurIPS 2021,
arXiv 2108.00951, and its authors' code):

    p_i = e_i + γ g_i;   v_i = C(p_i);   e_i ← p_i - v_i;   x ← x - mean_i v_i

    ec-sgd          g_i = ∇f_ij(x), one random local example j
    ec-gd           g_i = ∇f_i(x)
    ec-gd-star      g_i = ∇f_i(x) - ∇f_i(x*)
    ec-lsvrg        g_i = ∇f_ij(x) - ∇f_ij(w_i) + ∇f_i(w_i), w_i ← x with probability
                    1/(local examples)
    …-diana         g_i = ĝ_i - h_i + mean h, h_i ← h_i + α Q(ĝ_i - h_i), ĝ_i as above

and, beyond the study, local steps (Stich, ICLR 2019, arXiv 1805.09767) with error
feedback, whose workers have points of their own between two exchanges:

    ec-local-sgd    y_i ← y_i - γ ∇f_ij(y_i); every H-th time, with p_i = e_i + x - y_i
                    in the place of the above, y_i ← x once x is new

and, as a control, EF21-SGDM (Fatkhullin et al., NeurIPS 2023,
arXiv 2305.15155, algorithm 1):

    x ← x - γ mean g_i;   v_i ← (1-η) v_i + η ∇f_ij(x);   g_i ← g_i + C(v_i - g_i)

A threshold is in units of γ times a gradient. EF21-SGDM compresses gradients, so it
gets the threshold divided by γ and its error is reported times γ. All states are
float64, rows (n, d) stand for n workers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

State = dict[str, Any]  # x (d,), compressor (a nest of rows); others below.


class Setting(NamedTuple):
    """What stays the same over a run.

    Attributes:
        signed: float64 (n, s, d). Rows y_j a_j of each worker.
        l2: float64 scalar.
        step_size: float64 scalar, γ.
        star_gradients: float64 (n, d). ∇f_i(x*), for ec-gd-star; None otherwise.
        seed: int32 scalar, of the quantiser's draws.
    """

    signed: tf.Tensor
    l2: tf.Tensor
    step_size: tf.Tensor
    star_gradients: tf.Tensor | None
    seed: tf.Tensor


class Draw(NamedTuple):
    """What one iteration draws: `example` int32 (n,), `renews` bool (n,)."""

    example: tf.Tensor
    renews: tf.Tensor


class Cost(NamedTuple):
    """What one iteration cost: float64 (n,) each.

    Attributes:
        entries: Values that the compressor sent.
        quantised: Entries that the quantiser sent.
        gradients: Gradients of single examples that were computed.
    """

    entries: tf.Tensor
    quantised: tf.Tensor
    gradients: tf.Tensor


# corrected (n, d), what is new in it (n, d), compressor's states
# -> sent (n, d), states, entries (n,)
Compress = Callable[[tf.Tensor, tf.Tensor, Any], tuple[tf.Tensor, Any, tf.Tensor]]


def full_gradients(signed: tf.Tensor, l2: tf.Tensor, point: tf.Tensor) -> tf.Tensor:
    """∇f_i(x) for all workers: (n, d), as two products with the whole data."""
    workers, local, dimension = signed.shape
    margins = tf.linalg.matvec(tf.reshape(signed, [-1, dimension]), point)
    weights = tf.reshape(tf.sigmoid(-margins) / local, [workers, 1, local])
    return l2 * point - tf.squeeze(tf.linalg.matmul(weights, signed), axis=1)


def example_gradients(
    signed: tf.Tensor,
    l2: tf.Tensor,
    points: tf.Tensor,
    example: tf.Tensor,
    scale: tf.Tensor | float = 1.0,
) -> tf.Tensor:
    """scale·∇f_ij for one local example of each worker: (n, d).

    `points` is one point (d,) or one for each worker (n, d). A scale costs nothing here
    and a pass over (n, d) afterwards.
    """
    workers, local, dimension = signed.shape
    flat = tf.reshape(signed, [-1, dimension])
    rows = tf.gather(flat, example + local * tf.range(workers))
    if len(points.shape) == 1:  # one product for all workers, and no copy of x for each
        margins = tf.linalg.matvec(rows, points)[:, tf.newaxis]
    else:
        margins = tf.reduce_sum(rows * points, axis=1, keepdims=True)
    return scale * l2 * points - scale * tf.sigmoid(-margins) * rows


@dataclasses.dataclass(frozen=True)
class Method:
    """An estimator of the gradient, with DIANA's shifts or without.

    Attributes:
        estimator: "example", "full", "star" or "lsvrg".
        diana: Whether differences to learnt shifts h_i are compressed.
        momentum: η of EF21-SGDM in (0, 1], or None for error feedback.
        local_steps: H of ec-local-sgd, or None: workers exchange in every iteration.
    """

    estimator: str
    diana: bool = False
    momentum: float | None = None
    local_steps: int | None = None

    def init(self, setting: Setting, start: tf.Tensor, compressor: Any) -> State:
        """The state before the first iteration, from x (d,)."""
        workers, dimension = setting.signed.shape[0], setting.signed.shape[2]
        rows = tf.zeros([workers, dimension], tf.float64)
        state: State = {"x": start, "error": rows, "compressor": compressor}
        if self.diana:
            state["shift"] = rows
        if self.local_steps is not None:
            state["own"] = rows + start
        if self.estimator == "lsvrg":
            state["reference"] = rows + start
        if self.estimator == "lsvrg" or self.momentum is not None:
            gradients = full_gradients(setting.signed, setting.l2, start)
        if self.estimator == "lsvrg":
            state["reference_gradient"] = gradients
        if self.momentum is not None:
            state["average"] = state["sent"] = gradients
        return state

    def initial_cost(self, local: int, dimension: int) -> tuple[int, int]:
        """Entries sent and gradients computed per worker by `init`."""
        entries = dimension if self.momentum is not None else 0
        gradients = local if self.estimator == "lsvrg" or entries else 0
        return entries, gradients

    def iterate(
        self,
        state: State,
        setting: Setting,
        draw: Draw,
        step: tf.Tensor,
        compress: Compress,
    ) -> tuple[State, Cost]:
        """One iteration of all workers.

        Args:
            state: What `init` or the last call returned.
            setting: What stays the same.
            draw: Examples and coins of this iteration.
            step: int64 scalar, 0 at the first iteration.
            compress: Compresses all workers' vectors.
        """
        if self.momentum is not None:
            return self._ef21(state, setting, draw, compress)
        if self.local_steps is not None:
            return self._local(state, setting, draw, step, compress)
        new, state, gradients, quantised = self._scaled(state, setting, draw, step)
        state, entries = _exchanged(state, new, compress)
        return state, Cost(entries, quantised, gradients)

    def _local(
        self,
        state: State,
        setting: Setting,
        draw: Draw,
        step: tf.Tensor,
        compress: Compress,
    ) -> tuple[State, Cost]:
        signed, l2, own = setting.signed, setting.l2, state["own"]
        own -= example_gradients(signed, l2, own, draw.example, setting.step_size)
        every = tf.ones_like(own[:, 0])

        def exchange() -> tuple[State, tf.Tensor]:
            after, entries = _exchanged(state, state["x"] - own, compress)
            return {**after, "own": tf.zeros_like(own) + after["x"]}, entries

        state, entries = tf.cond(
            (step + 1) % self.local_steps == 0,
            exchange,
            lambda: ({**state, "own": own}, tf.zeros_like(every)),
        )
        return state, Cost(entries, tf.zeros_like(every), every)

    def _scaled(
        self, state: State, setting: Setting, draw: Draw, step: tf.Tensor
    ) -> tuple[tf.Tensor, State, tf.Tensor, tf.Tensor]:
        """γ g_i, the state, and what it cost."""
        if self.estimator == "example" and not self.diana:
            new = example_gradients(
                setting.signed,
                setting.l2,
                state["x"],
                draw.example,
                setting.step_size,
            )
            every = tf.ones_like(new[:, 0])
            return new, state, every, tf.zeros_like(every)
        estimate, state, gradients = self._estimate(state, setting, draw)
        quantised = tf.zeros_like(gradients)
        if self.diana:
            estimate, state, quantised = _shift(estimate, state, setting, step)
        return setting.step_size * estimate, state, gradients, quantised

    def _estimate(
        self, state: State, setting: Setting, draw: Draw
    ) -> tuple[tf.Tensor, State, tf.Tensor]:
        signed, l2, x = setting.signed, setting.l2, state["x"]
        workers, local, _ = signed.shape
        every = tf.ones([workers], tf.float64)
        if self.estimator == "example":
            return example_gradients(signed, l2, x, draw.example), state, every
        if self.estimator == "full":
            return full_gradients(signed, l2, x), state, every * local
        if self.estimator == "star":
            full = full_gradients(signed, l2, x)
            return full - setting.star_gradients, state, every * local
        reference, gradient = state["reference"], state["reference_gradient"]
        estimate = (
            example_gradients(signed, l2, x, draw.example)
            - example_gradients(signed, l2, reference, draw.example)
            + gradient
        )
        renews = draw.renews[:, tf.newaxis]
        state = {
            **state,
            "reference": tf.where(renews, x, reference),
            "reference_gradient": tf.cond(
                tf.reduce_any(renews),
                lambda: tf.where(renews, full_gradients(signed, l2, x), gradient),
                lambda: gradient,
            ),
        }
        return estimate, state, 2 * every + local * tf.cast(draw.renews, tf.float64)

    def _ef21(
        self, state: State, setting: Setting, draw: Draw, compress: Compress
    ) -> tuple[State, Cost]:
        x = state["x"] - setting.step_size * tf.reduce_mean(state["sent"], axis=0)
        gradient = example_gradients(setting.signed, setting.l2, x, draw.example)
        average = (1 - self.momentum) * state["average"] + self.momentum * gradient
        corrected = average - state["sent"]
        sent, kept, entries = compress(corrected, corrected, state["compressor"])
        state = {
            "x": x,
            "average": average,
            "sent": state["sent"] + sent,
            "error": setting.step_size * (corrected - sent),
            "compressor": kept,
        }
        return state, Cost(entries, tf.zeros_like(entries), tf.ones_like(entries))


def _exchanged(
    state: State, new: tf.Tensor, compress: Compress
) -> tuple[State, tf.Tensor]:
    """The state after v_i = C(e_i + new), and the entries that were sent."""
    corrected = state["error"] + new
    sent, kept, entries = compress(corrected, new, state["compressor"])
    state = {
        **state,
        "x": state["x"] - tf.reduce_mean(sent, axis=0),
        "error": corrected - sent,
        "compressor": kept,
    }
    return state, entries


def dither(vectors: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """ℓ₂ dithering Q of rows (n, d), unbiased, from uniform draws (n, d) in [0, 1).

    Q(x)_j = ‖x‖ sign(x_j) b_j with b_j ~ Bernoulli(|x_j|/‖x‖), so that
    E‖Q(x) - x‖² = ‖x‖‖x‖₁ - ‖x‖² <= (√d - 1)‖x‖² (QSGD with one level: Alistarh et
    al., NeurIPS 2017, arXiv 1610.02132, lemma 3.1).
    """
    norms = tf.norm(vectors, axis=1, keepdims=True)
    drawn = tf.cast(uniform * norms < tf.abs(vectors), vectors.dtype)
    return norms * tf.sign(vectors) * drawn


def shift_rate(dimension: int) -> float:
    """DIANA's α = 1/(1 + ω) with ω = √d - 1, the dithering's relative variance."""
    return 1 / math.sqrt(dimension)


def _shift(
    estimate: tf.Tensor, state: State, setting: Setting, step: tf.Tensor
) -> tuple[tf.Tensor, State, tf.Tensor]:
    shift = state["shift"]
    seed = tf.stack([setting.seed, tf.cast(step, tf.int32)])
    uniform = tf.random.stateless_uniform(shift.shape, seed, dtype=tf.float64)
    quantised = dither(estimate - shift, uniform)
    entries = tf.math.count_nonzero(quantised, axis=1, dtype=tf.float64)
    shifted = estimate - shift + tf.reduce_mean(shift, axis=0)
    learnt = shift + shift_rate(shift.shape[1]) * quantised
    return shifted, {**state, "shift": learnt}, entries


LOCAL_STEPS = 10  # Our choice, where none is given.
METHODS: dict[str, Method] = {
    "ec-sgd": Method("example"),
    "ec-gd": Method("full"),
    "ec-gd-star": Method("star"),
    "ec-sgd-diana": Method("example", diana=True),
    "ec-gd-diana": Method("full", diana=True),
    "ec-lsvrg": Method("lsvrg"),
    "ec-lsvrg-diana": Method("lsvrg", diana=True),
    # η = 0.1 is our choice: a mean over about ten iterations.
    "ec-local-sgd": Method("example", local_steps=LOCAL_STEPS),
    "ef21-sgdm": Method("example", momentum=0.1),
}
