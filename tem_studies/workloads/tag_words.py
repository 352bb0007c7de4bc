"""What TensorBoard says of a curve: what it is, over what, in which unit."""

from __future__ import annotations

from tem_studies.workloads.metric_words import said

_SINCE_START = "since step 0, over all workers"
_WORDS = {
    "loss": "Mean loss of an example, nats. Training: of steps since the last point.",
    "accuracy": "Share of examples whose class is told right, in [0, 1].",
    "perplexity": "exp of the mean loss of a word.",
    "hit_rate_at_10": (
        "HR@10: share of users whose held-out item is among the ten best of 101, in "
        "[0, 1]."
    ),
    "ndcg_at_10": (
        "NDCG@10: mean of 1 / log2(rank + 1) of users' held-out items where the rank "
        "is at most 10, else 0; in [0, 1]."
    ),
    "learning_rate": "Of the next step.",
    "steps_per_second": "Steps of training per second, without the first ones.",
    "validation_error": "1 - accuracy on the validation split, in [0, 1].",
    "lipschitz": "Lipschitz constant of the gradient along the step that follows.",
    "steps_to_result": "Steps until the validation error came down to the goal.",
    # A communication summary: see `tem_tf.metrics.summarise`.
    "steps": "Steps in which workers have exchanged, since step 0.",
    "replicas": "Workers.",
    "entries_sent": f"Entries of the gradient that were sent, {_SINCE_START}.",
    "payload_bytes": f"Bytes sent, without padding, {_SINCE_START}.",
    "padded_bytes": f"Bytes of padding sent beside the payload, {_SINCE_START}.",
    "dense_bytes": f"Bytes that the whole gradient would take, {_SINCE_START}.",
    "density": (
        "Entries sent by entries of the gradient, pruned ones among them, since step "
        "0; in [0, 1]."
    ),
    "total_error": (
        "Sum over all steps of the mean over workers of ||e||², e being what was to be "
        "sent less what was; squared units of a worker's gradient."
    ),
    "compression_error": "Mean over workers of ||e||² at the last step.",
    "relative_error": "Mean ||e||² by mean ||p||², p being what was to be sent.",
    "residual_norm": "Root of the mean over workers of ||m||², m being held back.",
    "residual_max": "Largest magnitude of an entry that a worker holds back.",
    "gradient_norm": "Root of the mean over workers of ||g||² at the last step.",
    "nonfinite_gradients": "Gradients that were not finite, of workers, since step 0.",
    "overflow_steps": "Steps that needed a second collective, since step 0.",
    "skipped_steps": "Steps in which nothing was updated, since step 0.",
    # Of the report of a comparison.
    "entries": "Entries that a worker sent in a step, k_t; mean since the last point.",
    "error": "||e||² of a step, mean over workers and since the last point.",
    "volume_over_budget": "Bytes sent by bytes that the budget allows.",
    # Of the convex laboratory.
    "suboptimality": "f(x) - f*.",
    "squared_distance": "||x - x*||².",
    "epochs": "Passes over the data.",
    "bits": "Bits that a worker sent since the start: values alone, 32 for each.",
    "encoded_bits": (
        "Bits that a worker sent since the start: values, indices and headers, 32 for "
        "each value and each index."
    ),
    "error_max": "Largest ||e||² of a worker since the last point.",
}
_PREFIXES = {
    "running_mean_": "Of the running mean of the weights: ",
    "validation_": "On the validation split: ",
    "test_": "On the test split: ",
}


def words_of(tag: str) -> str:
    """The description of a tag; "" if there is none.

    >>> words_of("communication/replicas")
    'Workers.'
    >>> words_of("running_mean_validation_perplexity")
    'Of the running mean of the weights: On the validation split: exp of the mean loss \
of a word.'
    """
    name = tag.rpartition("/")[2]
    if name in _WORDS:
        return _WORDS[name]
    for prefix, words in _PREFIXES.items():
        if name.startswith(prefix):
            return f"{words}{words_of(name.removeprefix(prefix))}"
    if name.endswith("_by_kilobytes"):
        found = words_of(name.removesuffix("_by_kilobytes"))
        return f"{found} The axis is not steps but kB that a worker has sent."
    return said(name) if "_" in name else ""
