"""A pytest plugin: Keras's own tests with each optimizer under test in our wrapper.

Used by test_keras_own_tests.py with `pytest -p tests.wrap_keras_optimizers`. What the
tests import is replaced in their own modules; nothing in Keras is. Of each test the
properties "wrapped" and "summed" are recorded: how many optimizers were wrapped, and
how many times one of them was handed gradients to sum.
"""

import collections
import functools

import keras
import pytest

import tem_tf
from tem_tf.gradient_sums import GradientSums

_counts: collections.Counter = collections.Counter()
_all_reduce = GradientSums._all_reduce


def _counting_all_reduce(self, grads_and_vars):
    _counts["summed"] += 1
    return _all_reduce(self, grads_and_vars)


def _wrapping(function):
    """Wraps the optimizer that a class or `keras.optimizers.get` returns, if any."""

    @functools.wraps(function, updated=())
    def make(*args, **kwargs):
        made = function(*args, **kwargs)
        if not isinstance(made, keras.optimizers.Optimizer):
            return made
        _counts["wrapped"] += 1
        return tem_tf.SparsifiedOptimizer(made, tem_tf.Identity())

    return make


class _Optimizers:
    """Stands for `keras.src.optimizers` in a test's module."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        found = getattr(self._module, name)
        is_optimizer = isinstance(found, type) and issubclass(
            found, keras.optimizers.Optimizer
        )
        return _wrapping(found) if is_optimizer or name == "get" else found


def pytest_collection_modifyitems(items):
    GradientSums._all_reduce = _counting_all_reduce
    for module in {item.module for item in items}:
        for name in ("SGD", "Adam"):
            if hasattr(module, name):
                setattr(module, name, _wrapping(getattr(module, name)))
        if hasattr(module, "optimizers"):
            module.optimizers = _Optimizers(module.optimizers)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
    for name in ("wrapped", "summed"):
        item.user_properties.append((name, _counts[name]))
    _counts.clear()
