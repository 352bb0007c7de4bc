"""Metaparameters of a trial: points of a Sobol sequence over fixed ranges.

A point u in [0, 1)^d becomes values by each range's scale:

    log               value = low · (high / low)^u
    log in 1 - value  1 - value = low' · (high' / low')^u, so that u = 0 is the largest
    integer           value = ⌊low + (high - low) · u⌋

The sequence is scipy's, unscrambled, without its first point, which is all zeros. So
the first trial is the middle of every range, and trial r has the same point whatever
the number of trials.

References:
    Ranges and scales: the code of Lee et al., ICLR 2021, arXiv 2003.11316.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tem_studies.refusal import Refusal

Point = dict[str, float | int]


def _log(low: float, high: float) -> Callable[[float], float]:
    return lambda u: low * (high / low) ** u


def _log_of_complement(low: float, high: float) -> Callable[[float], float]:
    return lambda u: 1.0 - (1.0 - high) * ((1.0 - low) / (1.0 - high)) ** u


def _integer(low: int, high: int) -> Callable[[float], int]:
    return lambda u: int(low + (high - low) * u)


DECAYS = ("constant", "linear")  # Those of a study.

# name -> (optimizers that have it, decay types that have it, u -> value). The numbers
# are the authors' (see above).
_ALL_OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adamw")
METAPARAMETERS: dict[str, tuple[tuple[str, ...], tuple[str, ...], Callable]] = {
    "learning_rate": (_ALL_OPTIMIZERS, DECAYS, _log(1e-4, 1.0)),
    "momentum": (
        ("momentum", "nesterov"),
        DECAYS,
        _log_of_complement(0.9, 0.9999),
    ),
    "decay_steps": (_ALL_OPTIMIZERS, ("linear",), _integer(30_000, 60_000)),
    "end_learning_rate_factor": (_ALL_OPTIMIZERS, ("linear",), _log(1e-4, 0.1)),
}


def check_kinds(kinds: Sequence[str], optimizer: str, decay_type: str) -> None:
    """Checks that these metaparameters exist and have an effect.

    Raises:
        Refusal: naming the wrong one.
    """
    for kind in kinds:
        if kind not in METAPARAMETERS:
            raise Refusal(
                f"`mparams_kind` must be among {', '.join(METAPARAMETERS)}. "
                f"Received: mparams_kind={kind!r}."
            )
        optimizers, decay_types, _ = METAPARAMETERS[kind]
        for name, value, takers in (
            ("optimizer", optimizer, optimizers),
            ("decay_type", decay_type, decay_types),
        ):
            if value not in takers:
                raise Refusal(
                    f"`mparams_kind` {kind} has no effect with `{name}` {value}. "
                    f"Received: mparams_kind={kind!r}. Leave it out or pass --{name} "
                    f"{' or '.join(takers)}."
                )
    if len(set(kinds)) < len(kinds):
        raise Refusal(
            "`mparams_kind` must name each metaparameter once. "
            f"Received: mparams_kind={' '.join(kinds)!r}."
        )


def sobol_points(dimensions: int, count: int) -> list[list[float]]:
    """The first points of the sequence, in [0, 1).

    Example:
        >>> sobol_points(2, 3)
        [[0.5, 0.5], [0.75, 0.25], [0.25, 0.75]]
    """
    from scipy.stats import qmc

    if not dimensions:
        return [[] for _ in range(count)]
    sequence = qmc.Sobol(dimensions, scramble=False)
    sequence.fast_forward(1)
    return sequence.random(count).tolist()


def metaparameters(kinds: Sequence[str], count: int) -> list[Point]:
    """The metaparameters of the first trials.

    Args:
        kinds: Names in `METAPARAMETERS`; their order is that of the dimensions.
        count: Integer >= 1. Number of trials.

    Example:
        >>> metaparameters(["decay_steps"], 2)
        [{'decay_steps': 45000}, {'decay_steps': 52500}]
    """
    return [
        {kind: METAPARAMETERS[kind][2](u) for kind, u in zip(kinds, point, strict=True)}
        for point in sobol_points(len(kinds), count)
    ]
