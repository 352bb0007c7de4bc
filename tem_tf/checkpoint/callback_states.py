"""What Keras's callbacks remember of earlier epochs: the best value, the wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np

from tem_tf.checkpoint.array_files import Arrays
from tem_tf.checkpoint.parts import Part

_REMEMBERED = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "cooldown_counter", "best"),
    keras.callbacks.ModelCheckpoint: ("best",),
}
_WEIGHTS = "best_weights"  # Of EarlyStopping, a list of arrays.


class CallbackStates(Part):
    """Numbers that decide what EarlyStopping and others do; the best weights.

    Args:
        callbacks: Gives those of the `fit` that runs. Of each kind the first is the
            first that was saved, and so on; those that were not saved begin anew.
    """

    def __init__(self, callbacks: Callable[[], Sequence[keras.callbacks.Callback]]):
        self._callbacks = callbacks

    def read(self):
        state: Arrays = {}
        for key, callback, names in self._each():
            values = {name: getattr(callback, name) for name in names}
            # None, before the first epoch's end, is not saved.
            state |= {
                f"{key}/{name}": np.array(value)
                for name, value in values.items()
                if value is not None
            }
            for i, weight in enumerate(getattr(callback, _WEIGHTS, None) or ()):
                state[f"{key}/{_WEIGHTS}/{i}"] = np.array(weight)
        return [state]

    def write(self, states):
        state = states[0]
        for key, callback, names in self._each():
            for name in names:
                if (value := state.get(f"{key}/{name}")) is not None:
                    setattr(callback, name, value.item())
            # By their numbers: nobody says that arrays come back in their order.
            number = sum(name.startswith(f"{key}/{_WEIGHTS}/") for name in state)
            if number:
                weights = [state[f"{key}/{_WEIGHTS}/{i}"] for i in range(number)]
                setattr(callback, _WEIGHTS, weights)

    def _each(
        self,
    ) -> Iterator[tuple[str, keras.callbacks.Callback, Sequence[str]]]:
        """A name of each, with what it remembers."""
        met: Counter[str] = Counter()
        for callback in self._callbacks():
            for kind, names in _REMEMBERED.items():
                if isinstance(callback, kind):
                    yield f"{kind.__name__} {met[kind.__name__]}", callback, names
                    met[kind.__name__] += 1
