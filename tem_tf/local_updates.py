"""LocalUpdates: a Keras optimizer whose workers exchange only every H-th step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tem_tf import _internals
from tem_tf.aggregating_optimizer import AggregatingOptimizer
from tem_tf.aggregation import Aggregator
from tem_tf.agreed_branches import where_agreed
from tem_tf.averages import Averages
from tem_tf.batch_ready import when_batch_is_ready
from tem_tf.compressors import Compressor, Identity
from tem_tf.conditional_steps import refuse_overwritten
from tem_tf.gradient_sums import own_gradients
from tem_tf.inner_optimizer import (
    LOST_BY_SAVING,
    build_slots,
    check_inner,
    check_local_steps,
    check_plain,
)
from tem_tf.instance_keys import Use, new_owner
from tem_tf.layout import when_ready
from tem_tf.local_beginning import Beginning
from tem_tf.local_exchange import LocalExchange
from tem_tf.memory import Memory
from tem_tf.places import check_between_steps, check_made_together
from tem_tf.replica_state import unique_names
from tem_tf.settings import settings_of
from tem_tf.streaming import Streaming

LOSS_SCALING = (
    "LocalUpdates cannot scale losses: a worker would skip steps that others take. "
    "Under the policy mixed_float16 pass auto_scale_loss=False to `model.compile`, or "
    "use mixed_bfloat16, which needs no scale."
)


@keras.saving.register_keras_serializable(package="tem_tf")
class LocalUpdates(AggregatingOptimizer):
    """Trains each worker by itself for some steps; then all exchange what has moved.

    Each worker's inner optimizer updates the worker's own weights with its own
    gradients and slots. After `local_steps` of them:

    1. each worker sends, compressed, how far its weights have moved since the last
       exchange (in the sense of a gradient: before minus now), and keeps back the rest;
    2. the outer optimizer takes the mean over workers for a gradient, and updates the
       common weights of before;
    3. all workers go on with those, and with the means of their moving statistics.

    Between two exchanges the optimizer has no collective. What is left: Keras asks
    whether a finite dataset has ended, at every step, and logs values over all workers
    unless the strategy's `batch_logs` are "local", as is the default under this
    optimizer. With a `.repeat()`ed dataset and `steps_per_epoch` there is none at all.

    Between two exchanges workers have different weights. Under
    `tem_tf.MultiWorkerMirroredStrategy` all exchange early before validation and
    `evaluate`, before callbacks of one's own hear of an epoch's end, and at the end of
    `fit`; elsewhere call `synchronise`.

    With `local_steps=1` it compresses *after* the inner optimizer, where
    `SparsifiedOptimizer` does so before.

    Args:
        inner_optimizer: `keras.optimizers.Optimizer`, or a name or configuration of
            one. Each worker's own; learning rate and all other attributes are read and
            set here. Its clipping is that of the undivided gradient.
        outer_optimizer: As well. Default: SGD(0.9, momentum=0.6, nesterov=True), the
            best of studies/frontier for short trainings; DiLoCo, whose have thousands
            of exchanges, has 0.7 and 0.9. Its schedule counts exchanges.
        local_steps: Int >= 1, default 10. Steps between two exchanges, H. Higher =>
            less is sent, and workers drift further apart.
        compressor: `tem_tf.Compressor`, default `Identity()`. What of its movement each
            worker sends. Thresholds are in units of the weights.
        memory: As in `SparsifiedOptimizer`.
        dense_below: As there.
        value_dtype: As there.
        nonfinite: What NaN and Inf do. "raise" (default): a worker whose weights are
            not finite at an exchange ends all workers. "zero": a gradient that is not
            finite counts as zero on its worker; weights that are not, as no movement,
            and their worker goes on with the common ones.
        reset_slots: Bool, default True. Whether a worker with weights that were not
            finite sets its slots (momenta and the like) to zero.
        rounding_seed: As in `SparsifiedOptimizer`.
        masks: As there. An exchange puts entries with a zero back to where they began.
        fragments: Int in [1, local_steps], or None (default): all weights are
            exchanged at once, after a step. Else in so many pieces of whole variables,
            each every H steps, in turn, during the step that follows: what that step
            adds to a worker's weights comes on top of the common ones. A link then has
            a step's time for a piece, and nobody waits if that is enough.
        gradients_divided_by_replicas: As in `SparsifiedOptimizer`: the inner optimizer
            gets gradients that are not divided.
        name: String. Default: the inner optimizer's.

    Raises:
        ValueError: an argument is out of range; an optimizer is wrapped, scales losses,
            or keeps means of weights (`use_ema`).

    Example:

    >>> import tem_tf
    >>> optimizer = tem_tf.LocalUpdates(
    ...     keras.optimizers.SGD(1.0), keras.optimizers.SGD(0.5), local_steps=2
    ... )
    >>> weights = keras.Variable([0.0])
    >>> optimizer.apply([tf.constant([1.0])], [weights])
    >>> weights.numpy()  # A local step,
    array([-1.], dtype=float32)
    >>> optimizer.apply([tf.constant([1.0])], [weights])
    >>> weights.numpy()  # another, to -2, and of that way the outer optimizer's half.
    array([-1.], dtype=float32)

    References:
        DiLoCo, arXiv 2311.08105; SparseLoCo, arXiv 2508.15706; of fragments and
        exchanges beside a step, Streaming DiLoCo, arXiv 2501.18512.
    """

    OWN = frozenset(
        {
            *("inner_optimizer", "outer_optimizer", "aggregator", "local_steps"),
            *("reset_slots", "fragments", "_divided", "_names", "_statistics"),
            *("_began", "_all_at_once", "_streaming", "_exchanges_now"),
        }
    )
    OBJECTS = ("inner_optimizer", "outer_optimizer", "compressor", "memory")
    FIXED = frozenset({"compressor", "memory", "masks", "dense_below", "value_dtype"})

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        outer_optimizer: keras.optimizers.Optimizer | None = None,
        local_steps: int = 10,
        compressor: Compressor | None = None,
        memory: Memory | str | None = "auto",
        dense_below: int = 0,
        value_dtype: str = "float32",
        nonfinite: str = "raise",
        reset_slots: bool = True,
        rounding_seed: int | None = None,
        masks: Mapping[str, Any] | None = None,
        fragments: int | None = None,
        gradients_divided_by_replicas: bool = True,
        name: str | None = None,
    ):
        inner_optimizer = keras.optimizers.get(inner_optimizer)
        if outer_optimizer is None:
            outer_optimizer = keras.optimizers.SGD(0.9, momentum=0.6, nesterov=True)
        outer_optimizer = keras.optimizers.get(outer_optimizer)
        for which, one in (("inner", inner_optimizer), ("outer", outer_optimizer)):
            check_inner(one, AggregatingOptimizer, f"{which}_optimizer")
            check_plain(one, f"{which}_optimizer")
        if inner_optimizer is outer_optimizer:
            raise ValueError(
                "`outer_optimizer` must be another object than `inner_optimizer`. "
                f"Received: {inner_optimizer.name!r} twice"
            )
        check_local_steps(local_steps, nonfinite, reset_slots, fragments)
        self.aggregator = Aggregator(
            Identity() if compressor is None else compressor,
            memory,
            dense_below=dense_below,
            value_dtype=value_dtype,
            nonfinite=nonfinite,
            rounding_seed=rounding_seed,
            masks=masks,
            # The mean is taken of the sum, in one rounding.
            gradients_divided_by_replicas=False,
        )
        self.local_steps, self.reset_slots = int(local_steps), reset_slots
        self.fragments = None if fragments is None else int(fragments)
        self._divided = gradients_divided_by_replicas
        self._names: list[str] = []
        self._statistics = Averages(Use(new_owner()))
        self._began = Beginning(self.aggregator.state)
        self._all_at_once = LocalExchange(
            *(self.aggregator, self._began, inner_optimizer, outer_optimizer),
            *(self._statistics, reset_slots),
        )
        self._streaming: Streaming | None = None
        # By names of what is trained, which changes where a layer is frozen.
        self._exchanges_now: dict[tuple[str, ...], Any] = {}
        self.outer_optimizer = outer_optimizer
        self.inner_optimizer = inner_optimizer
        for one in (inner_optimizer, outer_optimizer):
            _internals.replace_all_reduce(one, lambda pairs: pairs)
        if name is not None:
            inner_optimizer.name = name
        if inner_optimizer.built:
            self._build_own(_internals.trained_variables(inner_optimizer))

    def build(self, variables):
        """Makes both optimizers' variables and what each replica keeps, once."""
        if self.built:
            return
        self._build_own(variables)
        with self._scope():
            build_slots(self.inner_optimizer, variables)

    def average(self, variables: Sequence[Any]) -> None:
        """Has an exchange take the means over replicas of more variables.

        Such as moving statistics. In `fit` under `tem_tf.MultiWorkerMirroredStrategy`
        those of the model are found.

        Args:
            variables: Float variables that replicas update by themselves. Before the
                first step is traced, on all workers.
        """
        if self._statistics.add(variables):
            self._exchanges_now.clear()

    @tf.autograph.experimental.do_not_convert
    def apply(self, grads, trainable_variables=None):
        """A local step, and each `local_steps`-th time the exchange."""
        if _internals.loss_scale_optimizer_around() is not None:
            raise ValueError(LOSS_SCALING)
        if tf.distribute.in_cross_replica_context():
            raise ValueError(
                "`apply` of LocalUpdates must be called in replica context: inside "
                "`strategy.run`, where each replica has its own gradient."
            )
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            self._build_once(trainable_variables)
        pairs = _internals.with_gradients(
            self.inner_optimizer, grads, trainable_variables
        )
        gradients, variables = map(list, zip(*pairs, strict=True))
        ready = when_ready if self._streaming is None else when_batch_is_ready
        with ready(gradients):
            self._began.note_before_first_step(self._variables)
            self.aggregator.meet(self._all_at_once.number())
            # 1 In fragments: the exchange of a piece begins, if one is due.
            if self._streaming is not None:
                begun = self._streaming.begin(self._trained())
        # 2 A local step.
        own = own_gradients(gradients, self._divided, self.nonfinite == "zero")
        self.inner_optimizer.apply(own, variables)
        taken = self._began.count_step()
        # 3 The end of that, or the exchange, where it is due.
        if self._streaming is not None:
            self._streaming.end(begun, self._trained())
        else:
            where_agreed(taken >= self.local_steps, self._exchange, [])

    def synchronise(self) -> None:
        """Exchanges early, if a local step was taken since the last exchange.

        Collective: on all workers, between steps, outside `strategy.run`.
        """
        check_between_steps("synchronise")
        if not self.pending:
            return
        strategy = self.aggregator.strategy
        assert strategy is not None  # It is built.
        trained = tuple(self._trained())
        if trained not in self._exchanges_now:
            exchange = tf.function(lambda: strategy.run(self._exchange))
            self._exchanges_now[trained] = exchange
        self._exchanges_now[trained]()

    def synchronise_in_step(self) -> None:
        """The same in replica context."""
        if self.built:
            where_agreed(self._began.taken() > 0, self._exchange, [])

    @property
    def pending(self) -> int:
        """How many local steps were taken since the last exchange, on each worker."""
        return self._began.taken_here() if self.built else 0

    @property
    def nonfinite(self) -> str:
        """What NaN and Inf do, as given."""
        return self.aggregator.options.nonfinite

    @property
    def path(self) -> str:
        """As in `SparsifiedOptimizer`."""
        if not self.built:
            raise ValueError("`path` needs an optimizer that has been built.")
        return self.aggregator.path_in_words()

    @property
    def loss_scale_factor(self):
        """None: losses are not scaled."""
        return None

    @loss_scale_factor.setter
    def loss_scale_factor(self, value):
        """Keras sets it where it puts its own scaling around."""
        raise ValueError(LOSS_SCALING)

    def forget(self) -> None:
        """As in `SparsifiedOptimizer`; the outer optimizer's slots become zero, too.

        Weights are made common before: collective, on all workers.
        """
        self.synchronise()
        super().forget()
        if self.outer_optimizer.built:
            count = _internals.raw_iterations(self.outer_optimizer)
            for variable in [count, *_internals.slots(self.outer_optimizer)]:
                variable.assign(tf.zeros_like(variable))

    def finalize_variable_values(self, var_list):
        """As in Keras, which calls it at the end of `fit`: the last exchange."""
        self.synchronise()
        self.aggregator.raise_what_xla_could_not()
        self.outer_optimizer.finalize_variable_values(var_list)

    def get_config(self):
        options = self.aggregator.options
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "inner_optimizer": serialize(self.inner_optimizer),
            "outer_optimizer": serialize(self.outer_optimizer),
            "local_steps": self.local_steps,
            "compressor": serialize(options.compressor),
            "memory": serialize(options.memory),
            "dense_below": options.dense_below,
            "value_dtype": options.value_dtype,
            "nonfinite": options.nonfinite,
            "reset_slots": self.reset_slots,
            "rounding_seed": options.rounding_seed,
            "masks": options.masks.to_config(),
            "fragments": self.fragments,
            "gradients_divided_by_replicas": self._divided,
        }

    def save_own_variables(self, store):
        """Saves the number of steps: both optimizers are saved beside this object.

        Raises:
            ValueError: workers have weights of their own at the moment.
        """
        if self.pending:
            raise ValueError(
                "A model cannot be saved between two exchanges of LocalUpdates: each "
                f"worker has weights of its own. Received: {self.pending} local steps "
                "since the last one. Call `model.optimizer.synchronise()` on all "
                "workers before."
            )
        store["steps"] = _internals.raw_iterations(self.inner_optimizer).numpy()

    def load_own_variables(self, store):
        """Loads nothing, and says so if something was kept between exchanges."""
        trained = "steps" in store and int(store["steps"][()]) > 0
        if trained and self.aggregator.options.kept is not None:
            warnings.warn(LOST_BY_SAVING, stacklevel=2)

    def _build_own(self, variables: Sequence[Any]) -> None:
        check_made_together(self.inner_optimizer, variables)
        check_made_together(self.outer_optimizer, variables, "outer_optimizer")
        refuse_overwritten(variables, "LocalUpdates")
        self._names = unique_names(variables)
        with tf.init_scope(), self._scope():
            self.aggregator.facts = {
                **settings_of(self.inner_optimizer),
                **settings_of(self.outer_optimizer, "outer_optimizer"),
                "local_steps": repr(self.local_steps),
                "reset_slots": repr(self.reset_slots),
                "fragments": repr(self.fragments),
            }
            self.aggregator.build(variables, self._names, self._began.common)
            self._began.build(variables, self._names)
            if self.fragments is not None:
                named = dict(zip(self._names, variables, strict=True))
                self._streaming = Streaming(
                    *(self._all_at_once, self._began, self.aggregator.options.masks),
                    *(self.local_steps, self.fragments, named),
                )
            if not self.outer_optimizer.built:
                build_slots(self.outer_optimizer, variables)

    def _exchange(self) -> None:
        """Makes weights common again; replica context, on all replicas."""
        self._all_at_once.whole(self._trained())

    @property
    def _variables(self) -> list[Any]:
        return _internals.trained_variables(self.inner_optimizer)

    def _trained(self) -> dict[str, Any]:
        """Variables by name, without those of layers that have been frozen since."""
        named = zip(self._names, self._variables, strict=True)
        return {n: v for n, v in named if getattr(v, "trainable", True)}
