"""Whether a run may go on where a killed one was: what its flags say together."""

from __future__ import annotations

from tem_studies.refusal import Refusal


def resume_interval(
    given: set[str], resume: str, interval: int, overwrite: bool
) -> int | None:
    """Steps between two checkpoints of a run as a whole; None: there are none.

    Args:
        given: Names of the flags on the command line.
        resume: The flag's value.
        interval: As is `resume_interval`'s.
        overwrite: As is `overwrite`'s.

    Raises:
        Refusal: a flag is wrong, or has no effect.
    """
    if resume not in ("no", "auto"):
        raise Refusal(f"`resume` must be no or auto. Received: resume={resume!r}.")
    if resume == "no":
        if "resume_interval" in given:
            raise Refusal(
                "`resume_interval` has an effect with `resume` auto alone. Leave "
                "--resume_interval out or pass --resume auto."
            )
        return None
    if "logdir" not in given:
        raise Refusal(
            "`resume` auto needs a `logdir` that the next start will find. Pass "
            "--logdir."
        )
    if overwrite:
        raise Refusal(
            "`resume` auto goes on with what `overwrite` would remove. Leave "
            "--overwrite or --resume out."
        )
    if interval < 1:
        raise Refusal(
            "`resume_interval` must be at least 1. Received: "
            f"resume_interval={interval}."
        )
    return interval
