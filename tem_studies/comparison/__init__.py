"""Several compressors on one workload, at equal volume, over seeds (see README)."""
