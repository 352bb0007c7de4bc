"""How gradients are aggregated: the checked arguments of `SparsifiedOptimizer`."""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
from typing import Any

from tem_tf import memory as memories
from tem_tf.compressors import Compressor
from tem_tf.masks import Masks
from tem_tf.memory import Memory
from tem_tf.wire.value_types import VALUE_DTYPES

# A sign has one magnitude, so that there are no two to draw from.
ROUNDED_BY_CHANCE = ("int8", "int4", "int2")


@dataclasses.dataclass(frozen=True)
class Options:
    """See the arguments of `SparsifiedOptimizer`.

    Attributes:
        masks: `tem_tf.masks.Masks`, which is False where there are none.

    Raises:
        ValueError: an argument is out of range.
    """

    compressor: Compressor
    memory: Memory | str | None = "auto"
    dense_below: int = 0
    warmup_steps: int = 0
    value_dtype: str = "float32"
    nonfinite: str = "raise"
    local_clipnorm: float | None = None
    gradients_divided_by_replicas: bool = True
    exact_payload: bool = False
    rounding_seed: int | None = None
    masks: Any = None

    def __post_init__(self):
        object.__setattr__(self, "masks", Masks(self.masks))  # It is frozen.
        _check_compressor(self.compressor)
        _check_memory(memories.get(self.memory, self.compressor.lossless))
        for name in ("dense_below", "warmup_steps"):
            value = getattr(self, name)
            is_integer = isinstance(value, numbers.Integral)
            if not is_integer or isinstance(value, bool) or int(value) < 0:
                raise ValueError(
                    f"`{name}` must be an integer >= 0. Received: {name}={value!r}"
                )
            object.__setattr__(self, name, int(value))  # It is frozen.
        # A name: tf.float16 is equal to "float16", and another key.
        named = isinstance(self.value_dtype, str)
        if not named or self.value_dtype not in VALUE_DTYPES:
            raise ValueError(
                f"`value_dtype` must be one of {', '.join(VALUE_DTYPES)}. "
                f"Received: value_dtype={self.value_dtype!r}"
            )
        if self.compressor.lossless and self.value_dtype != "float32":
            raise ValueError(
                '`value_dtype` must be "float32" with a compressor that sends '
                "everything: rounding would make it lossy. "
                f"Received: value_dtype={self.value_dtype!r}"
            )
        self._check_rounding_seed()
        if self.nonfinite not in ("raise", "zero", "skip"):
            raise ValueError(
                '`nonfinite` must be "raise", "zero" or "skip". '
                f"Received: nonfinite={self.nonfinite!r}"
            )
        if self.local_clipnorm is not None and not (
            isinstance(self.local_clipnorm, numbers.Real)
            and not isinstance(self.local_clipnorm, bool)
            and 0 < float(self.local_clipnorm) < math.inf
        ):
            raise ValueError(
                "`local_clipnorm` must be a finite number > 0, or None. "
                f"Received: local_clipnorm={self.local_clipnorm!r}"
            )
        for name in ("gradients_divided_by_replicas", "exact_payload"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise ValueError(
                    f"`{name}` must be True or False. Received: {name}={value!r}"
                )

    def _check_rounding_seed(self) -> None:
        seed = self.rounding_seed
        if seed is None:
            return
        is_integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
        if not is_integer or not 0 <= int(seed) < 2**31:
            raise ValueError(
                "`rounding_seed` must be an integer in [0, 2**31), or None. "
                f"Received: rounding_seed={seed!r}"
            )
        if self.value_dtype not in ROUNDED_BY_CHANCE:
            raise ValueError(
                "`rounding_seed` must be None unless `value_dtype` is one of "
                f"{', '.join(ROUNDED_BY_CHANCE)}. Received: rounding_seed={seed!r} "
                f"with value_dtype={self.value_dtype!r}"
            )
        object.__setattr__(self, "rounding_seed", int(seed))  # It is frozen.

    @property
    def kept(self) -> Memory | None:
        """The memory that `memory` stands for with this compressor."""
        return memories.get(self.memory, self.compressor.lossless)

    @property
    def leave_gradients_alone(self) -> bool:
        """Whether Keras's own all-reduce does all that is asked for."""
        unchanged = self.compressor.lossless and self.kept is None
        return unchanged and self.local_clipnorm is None and not self.masks

    def largest_norm(self, unit: float) -> float | None:
        """`local_clipnorm` of gradients that come multiplied by `unit`."""
        return None if self.local_clipnorm is None else self.local_clipnorm * unit


def _check_compressor(compressor: Compressor) -> None:
    if not isinstance(compressor, Compressor):
        raise ValueError(
            "`compressor` must be a tem_tf compressor such as "
            f"tem_tf.HardThreshold(0.01). Received: compressor={compressor!r}"
        )


def _check_memory(memory: Memory | None) -> None:
    """Raises ValueError for a method with other arguments, as tem_tf 0.1 had."""
    for name in ("compensate", "update", "apply"):
        method = getattr(memory, name, None)
        if method is None:
            continue
        wanted = tuple(inspect.signature(getattr(Memory, name)).parameters)[1:]
        taken = tuple(inspect.signature(method).parameters.values())
        takes_any = any(p.kind == p.VAR_POSITIONAL for p in taken)
        if len(taken) != len(wanted) and not takes_any:
            raise ValueError(
                f"`{name}` of a memory must take ({', '.join(wanted)}), the last two "
                f"since tem_tf 0.2. Received: {type(memory).__name__}.{name}"
                f"({', '.join(p.name for p in taken)})"
            )
