"""The networks of time_to_target.py in PyTorch, numerically those of Keras.

Weights come from the job's file. Of dense layers and convolutions they are turned, as
PyTorch has them; the worker compares logits before it trains.
"""

from __future__ import annotations

import numpy as np
import torch
from time_to_target_data import Job
from torch import nn
from torch.nn import functional

EPSILON = 1e-5  # Of normalisation, in both.


class Gpt(nn.Module):
    """As tem_studies/workloads/transformer.py, without dropout.

    Args:
        job: Sizes and initial weights.
    """

    def __init__(self, job: Job):
        super().__init__()
        weights = dict(zip(job.paths, job.weights, strict=True))
        self._embedding = _parameter(weights["gpt/embedding"])
        self._places = _parameter(weights["gpt/places"])
        self._blocks = nn.ModuleList(
            _Block(weights, f"block_{i + 1}", job.sizes["heads"])
            for i in range(job.sizes["layers"])
        )
        self._norm = _parameter(weights["norm/gamma"])

    def forward(self, characters: torch.Tensor) -> torch.Tensor:
        """Logits (stretches, length, vocabulary) of int64 (stretches, length)."""
        x = self._embedding[characters] + self._places[: characters.shape[1]]
        for block in self._blocks:
            x = block(x)
        return _normalised(x, self._norm) @ self._embedding.T


class _Block(nn.Module):
    def __init__(self, weights: dict[str, np.ndarray], name: str, heads: int):
        super().__init__()
        self._heads = heads
        self._attention_norm = _parameter(weights[f"{name}_attention_norm/gamma"])
        self._dense_norm = _parameter(weights[f"{name}_dense_norm/gamma"])
        self._asked, self._joined, self._wide, self._narrow = (
            _parameter(weights[f"{name}_{layer}/kernel"].T)
            for layer in ("queries_keys_values", "joined", "wide", "narrow")
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self._attention(_normalised(x, self._attention_norm))
        inner = functional.linear(_normalised(x, self._dense_norm), self._wide)
        return x + functional.linear(functional.gelu(inner), self._narrow)

    def _attention(self, x: torch.Tensor) -> torch.Tensor:
        stretches, length, features = x.shape
        asked = functional.linear(x, self._asked)
        asked = asked.view(stretches, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(*asked, is_causal=True)
        found = found.transpose(1, 2).reshape(stretches, length, features)
        return functional.linear(found, self._joined)


class SimpleCnn(nn.Module):
    """As tem_studies/workloads/architectures.py.

    Args:
        job: Initial weights.
    """

    def __init__(self, job: Job):
        super().__init__()
        kernels = [
            weights.transpose(range(weights.ndim)[::-1]) for weights in job.weights
        ]
        first, second, dense = kernels[::2]
        # (out, in, width, height) to (out, in, height, width).
        self._first, self._second = (
            _parameter(kernel.swapaxes(2, 3)) for kernel in (first, second)
        )
        self._dense = _parameter(dense)
        self._biases = nn.ParameterList(_parameter(b) for b in job.weights[1::2])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, 10) of float32 (n, height, width, 1)."""
        x = images.permute(0, 3, 1, 2)
        for kernel, bias in zip(
            (self._first, self._second), self._biases, strict=False
        ):
            x = functional.max_pool2d(
                functional.relu(functional.conv2d(x, kernel, bias)), 2
            )
        # Keras's order of what is flattened: channels last.
        flat = x.permute(0, 2, 3, 1).flatten(1)
        return functional.linear(flat, self._dense, self._biases[2])


def network(job: Job) -> nn.Module:
    """A job's network with its initial weights."""
    return Gpt(job) if job.name == "gpt" else SimpleCnn(job)


def _parameter(values: np.ndarray) -> nn.Parameter:
    return nn.Parameter(torch.tensor(np.ascontiguousarray(values)))


def _normalised(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(x, scale.shape, scale, eps=EPSILON)
