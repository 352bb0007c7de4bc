"""Small files of every kind that the program reads, as their makers write them."""

import bz2
import json
import pathlib
import pickle

import numpy as np

from tem_studies.convex import run_files
from tem_studies.convex.trace import Trace
from tests.workloads.files import idx_bytes


def idx() -> bytes:
    """Five images."""
    return idx_bytes(np.arange(5 * 28 * 28).reshape(5, 28, 28) % 256)


def cifar() -> bytes:
    """Four images and their labels, in the protocol of the original files."""
    rows = (np.arange(4 * 3072) % 251).astype(np.uint8).reshape(4, 3072)
    batch = {b"data": rows, b"labels": [0, 1, 2, 3], b"batch_label": b"1"}
    return pickle.dumps(batch, protocol=2)


def bzipped(content: bytes) -> bytes:
    """Packed by bzip2."""
    return bz2.compress(content)


def ratings() -> bytes:
    """Ratings of three users."""
    lines = [f"{1 + i % 3},{i},3.5,{1000 + i}" for i in range(30)]
    return "\n".join(["userId,movieId,rating,timestamp", *lines, ""]).encode()


def trials(place: pathlib.Path) -> pathlib.Path:
    """A study of one trial."""
    configuration = {
        "batch_size": 20,
        "check_interval": 10,
        "check_interval_arrival": 10,
        "goal_error": 0.1,
        "mparams_kind": ["learning_rate"],
        "seed": 0,
        "target_sparsity": 0.5,
        "train_iterations": 100,
    }
    result = {
        "configuration": configuration,
        "history": [{"step": 40, "loss": 1.0, "validation_accuracy": 0.95}],
        "metaparameters": {"learning_rate": 0.1},
        "seconds": {"train": 1.0},
        "seed": 0,
        "status": "complete",
        "steps": 40,
        "steps_to_result": 40,
        "stopped_beyond": None,
        "trial": 0,
    }
    (place / "run-0").mkdir(parents=True)
    contents = {
        "study.json": {"configuration": configuration},
        "metaparameters.json": [{"learning_rate": 0.1}],
        "run-0/result.json": result,
    }
    for name, content in contents.items():
        (place / name).write_text(json.dumps(content, indent=1))
    return place


def laboratory(place: pathlib.Path) -> pathlib.Path:
    """A run of the convex laboratory."""
    curves = {
        name: np.linspace(1, 2, 4)
        for name in Trace.__dataclass_fields__
        if name not in {"step", "schedule", "status", "point"}
    }
    trace = Trace(
        step=np.array([0, 5, 10, 15]),
        schedule=np.ones((15, 2), np.int32),
        status="finished",
        point=np.zeros(3),
        **curves,
    )
    row = {"method": "ec-gd", "compressor": "topk", "setting": "k=1", "seed": 0}
    row |= run_files.summary(trace)
    run_files.write(place, {"workers": 2}, row, trace)
    return place
