"""One worker of aggregation.py's optional opponent: PyTorch's gloo, dense.

Runs under any Python that has PyTorch, which tem_tf itself never needs. One flat
buffer, as DistributedDataParallel keeps it; copying the gradient into the float32
buffer is not counted, rounding to float16 and back is.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import torch
from aggregation import SIZE
from torch import distributed
from worker_group import serve


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
        self._gradient = torch.randn(SIZE) * 1e-3
        self._buffer = torch.empty(SIZE)

    def handle(self, request: tuple[str, int]) -> dict[str, Any]:
        """Runs steps of one path: a name in aggregation.GLOO and their number."""
        name, steps = request
        distributed.barrier()
        seconds = []
        for _ in range(steps):
            self._buffer.copy_(self._gradient)
            began = time.perf_counter()
            if name.endswith("float16"):
                half = self._buffer.to(torch.float16)
                distributed.all_reduce(half)
                self._buffer.copy_(half)
            else:
                distributed.all_reduce(self._buffer)
            seconds.append(time.perf_counter() - began)
        return {"seconds": seconds}


def _interface(address: str) -> str:
    """The device that gloo shall use: that of loopback, or of shaped_links.py."""
    return "lo" if address.startswith("127.") else "eth0"


if __name__ == "__main__":
    serve(Worker().handle)
