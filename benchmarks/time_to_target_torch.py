"""One worker of time_to_target.py under PyTorch, on gloo.

Runs under any Python that has PyTorch and NumPy; this plugin is not imported. DDP and
its hooks are PyTorch's; the rest is in time_to_target_exchanges.py.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib

import numpy as np
import torch
from time_to_target_data import learning_rate, load, warm_up_steps
from time_to_target_exchanges import DiLoCo, OneBitAdam, inner_optimizer
from time_to_target_networks import network
from time_to_target_rows import CLIPNORM, FIRST_POWER_SGD_STEP, ONE_BUCKET_MB
from time_to_target_worker import NO_TURN, Beginning, Turn, cluster, traffic, turns
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.functional import cross_entropy
from worker_group import serve

_CHECKED = 64  # Examples of one forward pass of a check.


class DataParallel:
    """DistributedDataParallel, with one of its hooks or without.

    The mean gradient is clipped, as nanoGPT does.

    Args:
        model: The network.
        beginning: What to train.
        clipnorm: None clips nothing.
    """

    def __init__(self, model: nn.Module, beginning: Beginning, clipnorm: float | None):
        self._clipnorm = clipnorm
        self._optimizer = inner_optimizer(list(model.parameters()), beginning.settings)
        if beginning.way == "ddp_power_sgd":
            self._ddp = nn.parallel.DistributedDataParallel(
                model, bucket_cap_mb=ONE_BUCKET_MB
            )
            state = powerSGD_hook.PowerSGDState(
                process_group=None,
                matrix_approximation_rank=beginning.settings["rank"],
                start_powerSGD_iter=FIRST_POWER_SGD_STEP,
                min_compression_rate=1,
            )
            self._ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
            return
        self._ddp = nn.parallel.DistributedDataParallel(model)
        if beginning.way == "ddp_float16":
            self._ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)

    def step(self, inputs: torch.Tensor, targets: torch.Tensor, rate: float) -> None:
        """One step, at this learning rate."""
        self._optimizer.zero_grad()
        mean_loss(self._ddp(inputs), targets).backward()
        if self._clipnorm is not None:
            nn.utils.clip_grad_norm_(self._ddp.parameters(), self._clipnorm)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()


class Training:
    """One row's training on one worker.

    Args:
        beginning: What to train.
    """

    def __init__(self, beginning: Beginning):
        torch.set_num_threads(1)
        addresses, rank = cluster()
        is_local = addresses[0].startswith("127.")
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if is_local else "eth0")
        distributed.init_process_group(
            "gloo",
            init_method=f"tcp://{addresses[0]}",
            rank=rank,
            world_size=len(addresses),
        )
        torch.manual_seed(0)
        self._job = load(beginning.job)
        self._beginning = beginning
        self._step, self._index = 0, rank
        self._model = network(self._job)
        rows = self._job.of_worker(0, 0, beginning.workers)
        inputs, _ = self._tensors(*self._job.examples(rows))
        with torch.no_grad():
            logits = self._model(inputs).numpy()
        self.logits_difference = self._job.check_logits(logits)
        clipnorm = CLIPNORM if self._job.name == "gpt" else None
        if beginning.way.startswith("ddp"):
            self._way = DataParallel(self._model, beginning, clipnorm)
        else:
            make = DiLoCo if beginning.way == "diloco" else OneBitAdam
            loss = lambda x, y: mean_loss(self._model(x), y)  # noqa: E731
            self._way = make(self._model, loss, beginning.settings, clipnorm)

    def train(self, steps: int) -> Turn:
        """Takes so many steps."""
        before, began = traffic(), time.perf_counter()
        highest, last = (self._beginning.settings[name] for name in ("rate", "steps"))
        for _ in range(steps):
            workers = self._beginning.workers
            rows = self._job.of_worker(self._step, self._index, workers)
            rate = learning_rate(self._step, highest, last, warm_up_steps(last))
            self._way.step(*self._tensors(*self._job.examples(rows)), rate)
            self._step += 1
        seconds = time.perf_counter() - began
        sent, received = (b - a for a, b in zip(before, traffic(), strict=True))
        return Turn(steps, seconds, sent, received)

    def in_common(self) -> contextlib.AbstractContextManager[Turn]:
        """As `time_to_target_worker.Training`: weights are, where it is asked."""
        return contextlib.nullcontext(NO_TURN)

    def digest(self) -> int:
        """A checksum of the weights."""
        checksum = 0
        for weights in self._model.parameters():
            values = np.ascontiguousarray(weights.detach().numpy())
            checksum = zlib.crc32(values, checksum)
        return checksum

    @torch.no_grad()
    def errors(self, share: int, shares: int) -> tuple[float, float]:
        """Sum and number on a share of the validation split."""
        total = count = 0.0
        for inputs, targets, counts in self._job.held_out(_CHECKED)[share::shares]:
            x, y = self._tensors(inputs, targets)
            logits = self._model(x)
            if self._job.name == "gpt":
                errors = cross_entropy(logits.transpose(1, 2), y, reduction="none")
            else:
                errors = (logits.argmax(-1) != y).float()
            total += float((errors * torch.from_numpy(counts)).sum())
            count += float(counts.sum())
        return total, count

    def _tensors(
        self, inputs: np.ndarray, targets: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.from_numpy(inputs)
        return x.long() if x.dtype == torch.int32 else x, torch.from_numpy(
            targets
        ).long()


def mean_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy."""
    return cross_entropy(logits.flatten(0, -2), targets.flatten())


if __name__ == "__main__":
    serve(turns(Training))
