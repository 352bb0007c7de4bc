"""DiLoCo and 1-bit Adam in plain PyTorch, for time_to_target.py.

    DiLoCo       H steps of each worker's own optimizer from common weights θ, then
                 θ ← outer SGD with Nesterov's momentum, the mean of θ - w for gradient
    1-bit Adam   AdamW on mean gradients for T steps; then the variance v stays, and
                 with the common momentum m each worker sends c = b·m + (1 - b)·g + e
                 as signs and a scale for each variable, keeps e = c - what it sent, and
                 the next m is the mean

Both keep all weights in one flat buffer, so that an exchange is one collective.

References:
    Douillard et al., DiLoCo, arXiv 2311.08105; Tang et al., 1-bit Adam, ICML 2021,
    arXiv 2102.02888.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from time_to_target_rows import BETAS, DECAY, EPSILON, MOMENTUM
from torch import distributed, nn

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def inner_optimizer(
    parameters: Sequence[nn.Parameter], settings: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """A row's optimizer of weights; its learning rate is set before each step."""
    if settings["optimizer"] == "sgd":
        return torch.optim.SGD(parameters, lr=settings["rate"], momentum=MOMENTUM)
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=settings["rate"], betas=BETAS, eps=EPSILON, fused=True
    )


class Flat:
    """A network's weights and gradients, each in one buffer.

    Args:
        model: Its parameters become views.

    Attributes:
        weights, gradient: float32 (n,).
        sizes: Entries of each parameter.
    """

    def __init__(self, model: nn.Module):
        parameters = list(model.parameters())
        self.sizes = [parameter.numel() for parameter in parameters]
        self.weights = torch.cat([p.detach().flatten() for p in parameters])
        self.gradient = torch.zeros_like(self.weights)
        for parameter, weights, gradient in zip(
            parameters,
            self.weights.split(self.sizes),
            self.gradient.split(self.sizes),
            strict=True,
        ):
            parameter.data = weights.view(parameter.shape)
            parameter.grad = gradient.view(parameter.shape)

    def fill(self, loss: torch.Tensor, clipnorm: float | None) -> None:
        """Computes this worker's own gradient, clipped."""
        self.gradient.zero_()
        loss.backward()
        if clipnorm is not None:
            norm = float(self.gradient.norm())
            self.gradient.mul_(min(1.0, clipnorm / max(norm, EPSILON)))


class DiLoCo:
    """Local steps, and an outer optimizer.

    Args:
        model: The network.
        loss: Of inputs and targets.
        settings: `local_steps`, `outer_rate`, `outer_momentum`, `dtype` of what is
            sent, and `inner_optimizer`'s.
        clipnorm: Of each worker's own gradient; None clips nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        settings: Mapping[str, Any],
        clipnorm: float | None,
    ):
        self._flat, self._loss, self._clipnorm = Flat(model), loss, clipnorm
        self._inner = inner_optimizer(list(model.parameters()), settings)
        self._common = nn.Parameter(self._flat.weights.clone())
        self._outer = torch.optim.SGD(
            [self._common],
            lr=settings["outer_rate"],
            momentum=settings["outer_momentum"],
            nesterov=True,
        )
        self._local_steps = settings["local_steps"]
        self._dtype = getattr(torch, settings["dtype"])
        self._taken = 0

    def step(self, inputs: torch.Tensor, targets: torch.Tensor, rate: float) -> None:
        """One local step, at this learning rate; after every H-th an exchange."""
        self._flat.fill(self._loss(inputs, targets), self._clipnorm)
        for group in self._inner.param_groups:
            group["lr"] = rate
        self._inner.step()
        self._taken += 1
        if self._taken % self._local_steps == 0:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        moved = (self._common - self._flat.weights).to(self._dtype)
        distributed.all_reduce(moved)
        self._common.grad = moved.float() / distributed.get_world_size()
        self._outer.step()
        self._flat.weights.copy_(self._common)


class OneBitAdam:
    """AdamW, and after `freeze_step` steps signs of the momentum.

    Args:
        model: The network.
        loss: Of inputs and targets.
        settings: `freeze_step`.
        clipnorm: Of each worker's own gradient; None clips nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        settings: Mapping[str, Any],
        clipnorm: float | None,
    ):
        self._flat, self._loss, self._clipnorm = Flat(model), loss, clipnorm
        self._freeze_step = settings["freeze_step"]
        self._momentum, self._variance, self._error, self._decay = (
            torch.zeros_like(self._flat.weights) for _ in range(4)
        )
        for parameter, decay in zip(
            model.parameters(), self._decay.split(self._flat.sizes), strict=True
        ):
            decay.fill_(DECAY if parameter.ndim >= 2 else 0.0)
        self._sizes = torch.tensor(self._flat.sizes)
        self._taken = 0

    def step(self, inputs: torch.Tensor, targets: torch.Tensor, rate: float) -> None:
        """One step, at this learning rate."""
        self._flat.fill(self._loss(inputs, targets), self._clipnorm)
        gradient, (first, second) = self._flat.gradient, BETAS
        if self._taken < self._freeze_step:
            distributed.all_reduce(gradient)
            gradient /= distributed.get_world_size()
            self._momentum.lerp_(gradient, 1 - first)
            self._variance.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        else:
            self._exchange(torch.lerp(self._momentum, gradient, 1 - first))
        self._taken += 1
        known = min(self._taken, self._freeze_step)  # Steps the variance is of.
        alpha = rate * (1 - second**known) ** 0.5 / (1 - first**self._taken)
        weights = self._flat.weights
        weights.addcmul_(weights, self._decay, value=-rate)
        root = self._variance.sqrt().add_(EPSILON)
        weights.addcdiv_(self._momentum, root, value=-alpha)

    def _exchange(self, own: torch.Tensor) -> None:
        own = own + self._error
        # What has never had a gradient has no variance to be divided by.
        own *= self._variance > 0
        parts = own.split(self._flat.sizes)
        scales = torch.stack([part.abs().mean() for part in parts])
        signs = torch.from_numpy(np.packbits(own.numpy() >= 0))
        message = torch.cat([signs, scales.view(torch.uint8)])
        all_messages = [
            torch.empty_like(message) for _ in range(distributed.get_world_size())
        ]
        distributed.all_gather(all_messages, message)
        self._error = own - self._read(message)
        self._momentum.zero_()
        for one in all_messages:
            self._momentum += self._read(one) / len(all_messages)

    def _read(self, message: torch.Tensor) -> torch.Tensor:
        """The values of a message."""
        count = len(self._flat.weights)
        packed, scales = message[: -(-count // 8)], message[-(-count // 8) :]
        bits = torch.from_numpy(np.unpackbits(packed.numpy(), count=count))
        values = scales.clone().view(torch.float32).repeat_interleave(self._sizes)
        return torch.where(bits.bool(), values, -values)
