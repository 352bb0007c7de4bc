"""Settings that fit together but do not do what their user may want: said at the start.

This file imports neither TensorFlow nor numpy.
"""

from __future__ import annotations

from tem_studies.workloads.configuration import FEW_BITS, Configuration

# Memories that have a momentum of their own.
_WITH_MOMENTUM = ("dgc", "ef21_sgdm")


def warnings_of(configuration: Configuration) -> list[str]:
    """One line for each of them.

    >>> made = Configuration(compressor="dgc", density=0.1, optimizer="momentum")
    >>> warnings_of(made)[0][:59]
    'warning: momentum twice: `memory` dgc has one of its own, a'
    """
    return [
        f"warning: {words}"
        for words in (
            _momentum_twice(configuration),
            _pruned_entries_sent(configuration),
            _nothing_saved(configuration),
        )
        if words
    ]


def _momentum_twice(configuration: Configuration) -> str | None:
    memory = configuration.memory
    if memory is None and configuration.compressor == "dgc":
        memory = "dgc"
    if memory not in _WITH_MOMENTUM or configuration.optimizer == "sgd":
        return None
    return (
        f"momentum twice: `memory` {memory} has one of its own, and so has `optimizer` "
        f"{configuration.optimizer}. Pass --optimizer sgd."
    )


def _pruned_entries_sent(configuration: Configuration) -> str | None:
    sparsity = configuration.target_sparsity
    if configuration.compressor != "random_k" or not sparsity:
        return None
    return (
        "random_k draws pruned entries, too: "
        f"{100 * sparsity:g} % of the numbers that it sends are their zeros. Pass "
        "--target_sparsity 0, or another --compressor."
    )


def _nothing_saved(configuration: Configuration) -> str | None:
    """Why the payload cannot be smaller than the gradient, if it cannot."""
    c = configuration
    if c.compressor == "none":
        return None
    if c.warmup_steps >= c.train_iterations:
        return (
            f"everything is sent in all steps, as `warmup_steps` {c.warmup_steps} says."
        )
    if c.value_dtype in ("bfloat16", "float16", *FEW_BITS):
        return None
    is_whole = c.density == 1 and not c.density_ramp_steps
    if c.compressor == "all" or is_whole or c.low_density == 1:
        return (
            f"{c.compressor} sends every entry in {c.value_dtype}, no less than no "
            "compressor does. Pass a smaller density, or --value_dtype."
        )
    return None
