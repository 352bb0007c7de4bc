"""A Keras optimizer all of whose attributes are another's."""

from __future__ import annotations

from typing import Any

import keras

from tem_tf import _internals


class ForwardingOptimizer(keras.optimizers.Optimizer):
    """Around `inner_optimizer`: attributes that are not in OWN are read and set there.

    Methods and properties of Keras's base class are replaced by forwarding properties,
    but for those that a subclass defines. The base class's __init__ is not to be
    called: it would make variables.
    """

    OWN = frozenset({"inner_optimizer"})
    FIXED: frozenset[str] = frozenset()  # Arguments that cannot be set later.

    def __getattr__(self, name: str) -> Any:
        if name in self.OWN or name.startswith("_self_"):
            raise AttributeError(name)
        return getattr(self.inner_optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # A name of this class is one of the forwarding properties, or what checkpoints
        # note about this very object.
        if name in self.OWN or name.startswith("_self_") or hasattr(type(self), name):
            if name == "inner_optimizer":  # Tracked, so that checkpoints find it.
                self._track_trackable(value, name, overwrite=True)
            object.__setattr__(self, name, value)
        elif name in self.FIXED:
            raise AttributeError(
                f"`{name}` must be given when a {type(self).__name__} is made. "
                f"Received: {name}={value!r}"
            )
        else:
            setattr(self.inner_optimizer, name, value)


def _forward(name: str) -> property:
    return property(
        lambda self: getattr(self.inner_optimizer, name),
        lambda self, value: setattr(self.inner_optimizer, name, value),
    )


for _name in _internals.optimizer_attributes() - set(vars(ForwardingOptimizer)):
    if _name not in ("_obj_type",):
        setattr(ForwardingOptimizer, _name, _forward(_name))
