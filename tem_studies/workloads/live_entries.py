"""Volumes by what is left of a pruned network, beside those by all entries.

This file imports neither TensorFlow nor numpy: what is said of a result needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Pruning = Mapping[str, Mapping[str, int]]


def with_live(
    communication: Mapping[str, float] | None, pruning: Pruning
) -> dict[str, float] | None:
    """A communication summary, and the same by what is left of a pruned network.

    Args:
        communication: Of all entries, pruned ones, too; or None.
        pruning: Entries kept and in total, by variable.

    Returns:
        It with `sent_per_live_entry`, entries sent by entries that are not pruned, so
        above 1 where everything is sent; and `live_dense_bytes`, 4 for each entry that
        is not.
    """
    if communication is None:
        return None
    kept, total = kept_and_total(pruning)
    return {
        **communication,
        "sent_per_live_entry": communication["density"] * total / kept,
        "live_dense_bytes": communication["dense_bytes"] * kept // total,
    }


def kept_and_total(pruning: Pruning) -> tuple[int, int]:
    """Entries that are not pruned, and all.

    >>> kept_and_total({"a": {"kept": 1, "total": 10}, "b": {"kept": 2, "total": 2}})
    (3, 12)
    """
    counts = pruning.values()
    return sum(c["kept"] for c in counts), sum(c["total"] for c in counts)


def volume_lines(result: Mapping[str, Any]) -> list[str]:
    """What a user is told of what a run sent; nothing if no step has sent."""
    found = with_live(result["communication"], result["pruning"])
    if not found or not found["dense_bytes"]:
        return []
    sent = found["payload_bytes"] + found["padded_bytes"]
    dense, live = found["dense_bytes"], found["live_dense_bytes"]
    if result["configuration"]["local_steps"]:  # Dense would exchange every step.
        dense, live = (
            int(x) * result["steps"] // int(found["steps"]) for x in (dense, live)
        )
    kept, total = kept_and_total(result["pruning"])
    lines = [
        f"density         {100 * found['density']:.3g} %",
        f"bytes sent      {sent:,} ({100 * sent / dense:.3g} % of {dense:,} dense)",
    ]
    if kept < total:
        lines.append(
            f"not pruned      {kept:,} of {total:,} entries: density "
            f"{100 * found['sent_per_live_entry']:.3g} % of these, bytes "
            f"{100 * sent / live:.3g} % of {live:,} dense"
        )
    compressor = result["configuration"]["compressor"]
    if compressor != "none" and sent >= dense:
        lines.append(
            f"nothing saved   {compressor} sent no fewer bytes than dense exchange "
            "would have"
        )
    return lines
