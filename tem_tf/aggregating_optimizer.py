"""A Keras optimizer around another, by whose aggregator replicas exchange."""

from __future__ import annotations

import contextlib

import keras
import tensorflow as tf

from tem_tf import _internals
from tem_tf.aggregation import Aggregator
from tem_tf.forwarding_optimizer import ForwardingOptimizer
from tem_tf.places import check_between_steps, check_in_replica


class AggregatingOptimizer(ForwardingOptimizer):
    """What all wrappers with an aggregator have in common.

    Attributes:
        aggregator: `tem_tf.Aggregator`. Sums over replicas, keeps what is held back.
    """

    OWN = frozenset({"inner_optimizer", "aggregator"})
    # Keys of the configuration under which Keras has serialised objects.
    OBJECTS: tuple[str, ...] = ("inner_optimizer", "compressor", "memory")

    aggregator: Aggregator

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for key in cls.OBJECTS:
            if isinstance(config[key], dict):
                config[key] = keras.saving.deserialize_keras_object(
                    config[key], custom_objects=custom_objects
                )
        return cls(**config)

    @tf.autograph.experimental.do_not_convert
    def apply_gradients(self, grads_and_vars):
        """As in Keras, for custom training loops."""
        gradients, variables = zip(*grads_and_vars, strict=True)
        self.apply(gradients, variables)
        return _internals.raw_iterations(self.inner_optimizer)

    def communication_summary(self) -> dict[str, float]:
        """What was sent and held back so far, summed over workers.

        Collective: under several workers call it on all of them, outside
        `strategy.run`.

        Returns:
            See `tem_tf.metrics.summarise`.
        """
        return self._summaries("communication_summary")[0]

    def communication_by_variable(self) -> dict[str, dict[str, float]]:
        """The same for each variable, by its path. Collective, as the above.

        Returns:
            See `tem_tf.metrics.summarise_variables`.
        """
        return self._summaries("communication_by_variable")[1]

    def communication_summaries(self) -> tuple[dict, dict]:
        """Both, from one collective."""
        return self._summaries("communication_summaries")

    @property
    def path(self) -> str:
        """By what this process's gradients are compressed, and why, in words.

        "native kernels", or "TensorFlow's operations", which are slower and give the
        same bits, with what has switched the kernels off, such as XLA for the step
        that was traced last; and which variables are summed whole, since their dtype is
        none that is compressed.
        """
        if self.aggregator.options.leave_gradients_alone:
            return "Keras's own all-reduce: nothing is compressed"
        if not self.built:
            raise ValueError("`path` needs an optimizer that has been built.")
        return self.aggregator.path_in_words()

    def running_totals(self) -> tf.Tensor:
        """What this replica sent and held back so far; replica context.

        Cheap, not collective: call it after each `apply` and take differences to have
        every step's own values. Before the first step they are zero.

        Returns:
            float64 (3,): entries sent, payload bytes without padding, sum of ‖e‖².

        Raises:
            ValueError: called outside `strategy.run`, under a strategy.
        """
        check_in_replica("running_totals")
        # A graph that is traced before `build` shall read what later steps count.
        with tf.init_scope(), self._scope():
            self.aggregator.build_totals()
        return self.aggregator.running_totals()

    def forget(self) -> None:
        """Empties what workers hold back, and sets the totals to zero.

        For another training with the same optimizer, which has its first loss scale
        again; the inner one is left as it is. Outside `strategy.run`, on all workers.
        """
        check_between_steps("forget")
        if self.built:
            self.aggregator.reset()

    def _summaries(self, method: str) -> tuple[dict, dict]:
        check_between_steps(method)
        if not self.built:
            raise ValueError(
                f"`{method}` needs an optimizer that has been built: call it after "
                "the first step."
            )
        self._raise_what_xla_could_not()
        return self.aggregator.summaries()

    def _raise_what_xla_could_not(self) -> None:
        """Raises for NaN at steps that XLA has compiled, where nobody else knows."""

    def _build_once(self, variables) -> None:
        inner = self.inner_optimizer
        if variables and not inner.built:
            with keras.name_scope(inner.name, caller=inner):
                self.build(variables)

    def _scope(self):
        """The strategy's scope, which may be left by now.

        Outside it all replicas would get one residual together.
        """
        if tf.distribute.has_strategy():
            return contextlib.nullcontext()
        return _internals.strategy_of(self.inner_optimizer).scope()
