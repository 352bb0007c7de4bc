"""The DPS study: steps to a result against batch size and sparsity (see README)."""
