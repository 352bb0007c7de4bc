"""How metrics are called where people read, by their names in files."""

from __future__ import annotations

# Of metrics whose words in a file are none that people say.
_SAID = {"hit_rate_at_10": "HR@10", "ndcg_at_10": "NDCG@10"}


def said(name: str) -> str:
    """A metric as people say it.

    >>> said("hit_rate_at_10"), said("perplexity"), said("running_mean_ndcg_at_10")
    ('HR@10', 'perplexity', 'running mean NDCG@10')
    """
    for written, word in _SAID.items():
        name = name.replace(written, word)
    return name.replace("_", " ")
