"""Whether what must be equal on all replicas still is, before it is saved.

Replicas that have drifted apart - by a faulty memory, a callback that sets a variable
on one worker, an operation without a fixed order - would go on, and a checkpoint of the
chief's weights with another worker's residuals is none. So each checkpoint begins with
one small collective.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tem_tf.checkpoint.parts import Part
from tem_tf.worker_texts import WorkerTexts

_SHOWN = 3  # Variables that an error names.


class Diverged(RuntimeError):
    """Replicas differ in what must be equal on all of them."""


def require_agreement(step: int, parts: Mapping[str, Part], texts: WorkerTexts) -> None:
    """Compares weights and slots of all replicas. Collective.

    Args:
        step: For the error.
        parts: What is saved, by name.
        texts: Of all workers.

    Raises:
        Diverged: on all workers, naming the variables.
    """
    variables = [named for part in parts.values() for named in part.equal_now()]
    if texts.workers == 1 and all(len(here) == 1 for _, here in variables):
        return  # There is but one.
    here = {name: [_digest(each) for each in here] for name, here in variables}
    of_all = zlib.crc32(json.dumps(here).encode())
    one_here = all(len(set(replicas)) == 1 for replicas in here.values())
    said = texts.gather(f"{of_all} {one_here}")
    if set(said) == {f"{of_all} True"}:
        return
    workers = [json.loads(text) for text in texts.gather(json.dumps(here))]
    differing = [
        name
        for name in here
        if len({digest for worker in workers for digest in worker.get(name, [])}) > 1
    ]
    more = len(differing) - _SHOWN
    raise Diverged(
        f"Replicas have diverged by step {step}: they differ in "
        f"{', '.join(differing[:_SHOWN]) or 'the variables that they have'}"
        f"{f' and {more} more' if more > 0 else ''}. Nothing was saved of this step. "
        "Look for what sets variables on one worker alone. A new start goes on from "
        "the last step at which all were equal."
    )


def _digest(variable: Any) -> int:
    # Its bytes as they lie: `tobytes` would copy them.
    return zlib.crc32(np.atleast_1d(variable.numpy()).view(np.uint8))
