"""Compressors and memories from the settings of a run."""

from __future__ import annotations

from tem_studies.refusal import refusing
from tem_studies.workloads import own_names, own_parts
from tem_studies.workloads.compression_rows import COMPRESSOR_ROWS, MEMORY_ROWS
from tem_studies.workloads.compression_settings import OF_COMPRESSORS, read_counts
from tem_studies.workloads.configuration import Configuration
from tem_tf.compressors import COMPRESSORS, Compressor, Ramp
from tem_tf.memory import MEMORIES, Memory

# Flag -> argument, where an argument has another name than our flag.
_ARGUMENTS = {
    "topk_scope": "scope",
    "accordion_interval": "interval_steps",
    "memory_decay": "decay",
    "memory_momentum": "momentum",
}
# The density at which DGC starts (Lin et al., ICLR 2018, arXiv 1712.01887, 3.3).
_RAMP_START = 0.25
_BLOCK = 4096  # Entries, as in SparseLoCo (arXiv 2508.15706).


def make_compressor(
    configuration: Configuration, steps_per_epoch: int | None = None
) -> Compressor:
    """Makes the compressor that a configuration asks for.

    Args:
        configuration: The run's settings.
        steps_per_epoch: Steps of one pass over the training data, if that is known:
            ACCORDION then decides every 10 epochs, and after each step decay.

    Raises:
        Refusal: its settings do not fit together, or `counts` is no such file; a
            user's own cannot be used.
    """
    name = configuration.compressor
    if own_names.is_own(name):
        return own_parts.make_compressor(name, configuration.compressor_arguments or {})
    row = COMPRESSOR_ROWS[name]
    arguments = {
        setting: getattr(configuration, setting)
        for setting in row.settings
        if getattr(configuration, setting) is not None and setting in OF_COMPRESSORS
    }
    ramp_steps = arguments.pop("density_ramp_steps", None)
    if ramp_steps:
        end = arguments["density"]
        with refusing(ValueError):
            arguments["density"] = Ramp(max(_RAMP_START, end), end, ramp_steps)
    if arguments.get("topk_scope") == "block":
        del arguments["topk_scope"]
        arguments["per_block"] = max(1, round(arguments.pop("density") * _BLOCK))
        arguments["block"] = _BLOCK
    if "counts" in arguments:
        arguments["counts"] = read_counts(arguments["counts"])
    own = {_ARGUMENTS.get(key, key): value for key, value in arguments.items()}
    with refusing(ValueError):
        kind = COMPRESSORS[row.kind or name]
        return kind(**row.also(configuration, steps_per_epoch) | own)


def make_memory(configuration: Configuration) -> Memory | str | None:
    """Makes the memory that a configuration asks for; "auto" where it names none."""
    if not configuration.error_feedback:
        return None
    row = COMPRESSOR_ROWS.get(configuration.compressor)
    name = configuration.memory or (row and row.memory)
    if name is None:
        return "auto"
    arguments = {
        _ARGUMENTS[setting]: getattr(configuration, setting)
        for setting in MEMORY_ROWS[name].settings
        if getattr(configuration, setting) is not None
    }
    with refusing(ValueError):
        return MEMORIES[name](**arguments)
