"""One worker of aggregation.py's optional opponents: PyTorch's gloo.

Runs under any Python that has PyTorch, which tem_tf itself never needs. Dense: one flat
buffer, as DistributedDataParallel keeps it; copying the gradient into the float32
buffer is not counted, rounding to float16 and back is. PowerSGD: see `PowerSGD`.
"""

from __future__ import annotations

import functools
import json
import os
import time
from typing import Any

import torch
from aggregation import DDP, RANK, SIZE
from resnet18 import resnet18_shapes
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks import debugging_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel
from worker_group import serve

SCALE = 1e-3  # Standard deviation of an entry.
# More than all variables have: one bucket. The hook starts its sums from the threads in
# which others end, so that of several buckets each worker would start them in an order
# of its own, and gloo would take one for another.
BUCKET_MB = 64
# The least that PyTorch allows with error feedback: DDP deals out its buckets anew
# after the first step. Until then it sums whole gradients.
FIRST_STEP = 2


class Worker:
    """Answers the benchmark's requests; see `handle`."""

    def __init__(self):
        torch.set_num_threads(1)
        config = json.loads(os.environ["TF_CONFIG"])
        addresses, rank = config["cluster"]["worker"], config["task"]["index"]
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface(addresses[0]))
        distributed.init_process_group(
            "gloo",
            init_method=f"tcp://{addresses[0]}",
            rank=rank,
            world_size=len(addresses),
        )
        torch.manual_seed(rank)
        self._gradient = torch.randn(SIZE) * SCALE
        self._buffer = torch.empty(SIZE)

    def handle(self, request: tuple[str, int]) -> dict[str, Any]:
        """Runs steps of one path: a name in aggregation.TORCH_PATHS and their number.

        Returns:
            `seconds` of each step; of PowerSGD more, as `PowerSGD.run` says.
        """
        name, steps = request
        if name == DDP:
            return self._power_sgd.run(steps)
        distributed.barrier()
        return {"seconds": [self._dense(name) for _ in range(steps)]}

    def _dense(self, name: str) -> float:
        self._buffer.copy_(self._gradient)
        began = time.perf_counter()
        if name.endswith("float16"):
            half = self._buffer.to(torch.float16)
            distributed.all_reduce(half)
            self._buffer.copy_(half)
        else:
            distributed.all_reduce(self._buffer)
        return time.perf_counter() - began

    @functools.cached_property
    def _power_sgd(self) -> PowerSGD:
        return PowerSGD(self._gradient)


class PowerSGD:
    """DistributedDataParallel with its PowerSGD hook, beside one with a no-op hook.

    Warm start and error feedback as by default. Variables are ResNet-18's as PyTorch
    has them, (out, in, 3, 3), so that the hook's matrices are the transposes of ours,
    and those are compressed of which the factors have fewer numbers, as in tem_tf.

    Args:
        gradient: Of all variables, end to end: (n,).
    """

    def __init__(self, gradient: torch.Tensor):
        # (3, 3, in, out) is (out, in, 3, 3), (in, out) is (out, in).
        shapes = [(*shape[-2:][::-1], *shape[:-2]) for shape in resnet18_shapes()]
        parts = gradient.split([torch.Size(shape).numel() for shape in shapes])
        own = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        self._gradients = own, [-part for part in own]
        self._taken = self._steps = self._sent = self._payload_bytes = 0
        self._nothing = _distributed(shapes)
        self._nothing.register_comm_hook(None, debugging_hooks.noop_hook)
        self._compressed = _distributed(shapes)
        state = powerSGD_hook.PowerSGDState(
            process_group=None,
            matrix_approximation_rank=RANK,
            start_powerSGD_iter=FIRST_STEP,
            min_compression_rate=1,
        )
        self._compressed.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        for _ in range(FIRST_STEP):
            self._seconds(self._nothing)
            self._seconds(self._compressed)
        distributed.all_reduce = self._counting(distributed.all_reduce)

    def run(self, steps: int) -> dict[str, Any]:
        """Takes steps of both in turns.

        Returns:
            `seconds`: of each step, beyond the hook that does nothing; `noop_seconds`,
            those of it; `payload_bytes` of all steps so far, over all workers.
        """
        noop, beyond = [], []
        for _ in range(steps):
            noop.append(self._seconds(self._nothing))
            before = self._sent
            beyond.append(self._seconds(self._compressed) - noop[-1])
            self._payload_bytes += self._sent - before
            self._steps += 1
        return {
            "seconds": beyond,
            "noop_seconds": noop,
            "steps": self._steps,
            "payload_bytes": self._payload_bytes * distributed.get_world_size(),
            "padded_bytes": 0,
        }

    def _seconds(self, model: DistributedDataParallel) -> float:
        """Of one backward pass, which all begin together."""
        model.zero_grad()
        gradients = self._gradients[self._taken // 2 % 2]  # For both the same.
        self._taken += 1
        distributed.barrier()
        began = time.perf_counter()
        model(gradients).backward()
        return time.perf_counter() - began

    def _counting(self, all_reduce: Any) -> Any:
        def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self._sent += tensor.numel() * tensor.element_size()
            return all_reduce(tensor, *args, **kwargs)

        return counted


def _distributed(shapes: list[tuple[int, ...]]) -> DistributedDataParallel:
    return DistributedDataParallel(_Given(shapes), bucket_cap_mb=BUCKET_MB)


class _Given(torch.nn.Module):
    """Variables whose gradients are what is given: no loss takes time."""

    def __init__(self, shapes: list[tuple[int, ...]]):
        super().__init__()
        weights = (torch.nn.Parameter(torch.zeros(shape)) for shape in shapes)
        self._weights = torch.nn.ParameterList(weights)

    def forward(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        return _Gradients.apply(gradients, *self._weights)


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, gradients: list[torch.Tensor], *weights: Any) -> Any:
        context.gradients = gradients
        return weights[0].new_zeros(())

    @staticmethod
    def backward(context: Any, *outer: Any) -> Any:
        return None, *context.gradients


def _interface(address: str) -> str:
    """The device that gloo shall use: that of loopback, or of shaped_links.py."""
    return "lo" if address.startswith("127.") else "eth0"


if __name__ == "__main__":
    serve(Worker().handle)
