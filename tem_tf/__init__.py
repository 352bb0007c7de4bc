"""Data-parallel Keras training with sparsified gradients.

See `SparsifiedOptimizer` and `MultiWorkerMirroredStrategy`.
"""

import os as _os
import sys as _sys

if _os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"):
    raise ImportError(
        "tem_tf needs Keras 3. Received: TF_USE_LEGACY_KERAS="
        f"{_os.environ['TF_USE_LEGACY_KERAS']}. Unset it."
    )

# Before Keras is imported: that fails if the other backend is not installed.
if "keras" not in _sys.modules and (
    _os.environ.get("KERAS_BACKEND", "") not in ("", "tensorflow")
):
    raise ImportError(
        "tem_tf needs Keras's TensorFlow backend. Received: KERAS_BACKEND="
        f"{_os.environ['KERAS_BACKEND']}. Set KERAS_BACKEND=tensorflow."
    )

import keras as _keras

if _keras.backend.backend() != "tensorflow":
    raise ImportError(
        "tem_tf needs Keras's TensorFlow backend. Received: "
        f"{_keras.backend.backend()}. Set KERAS_BACKEND=tensorflow."
    )

from tem_tf import testing
from tem_tf.aggregation import Aggregator
from tem_tf.callbacks import TensorBoardSparsification
from tem_tf.checkpoint import Checkpoint, Stopped
from tem_tf.compressed_adamw import CompressedAdamW
from tem_tf.compressors import (
    Accordion,
    AdaptiveThreshold,
    AllEntries,
    At,
    AtLeast,
    Broadcast,
    Compressor,
    CyclicTopK,
    Done,
    Gather,
    HardThreshold,
    Heard,
    Identity,
    Largest,
    Message,
    Piecewise,
    PowerSGD,
    Ramp,
    RandomK,
    Schedule,
    Sign,
    Sparsifier,
    Sum,
    TopK,
    TopKSchedule,
)
from tem_tf.cross_device_ops import SparsifiedCrossDeviceOps
from tem_tf.forecast import Forecast, Link, predict
from tem_tf.local_updates import LocalUpdates
from tem_tf.memory import (
    EF21,
    EF21SGDM,
    DecayingErrorFeedback,
    ErrorFeedback,
    Memory,
    MomentumCorrection,
)
from tem_tf.optimizer import SparsifiedOptimizer
from tem_tf.sparse_gradient import SparseGradient
from tem_tf.strategy import (
    MultiWorkerMirroredStrategy,
    is_chief,
)
from tem_tf.version import VERSION as __version__
from tem_tf.worker_texts import require_same_on_all_workers

__all__ = [
    "Accordion",
    "AdaptiveThreshold",
    "AllEntries",
    "Aggregator",
    "At",
    "AtLeast",
    "Broadcast",
    "Checkpoint",
    "CompressedAdamW",
    "Compressor",
    "DecayingErrorFeedback",
    "Done",
    "EF21",
    "EF21SGDM",
    "ErrorFeedback",
    "Forecast",
    "Gather",
    "HardThreshold",
    "Heard",
    "Identity",
    "Largest",
    "Link",
    "LocalUpdates",
    "Memory",
    "Message",
    "MomentumCorrection",
    "MultiWorkerMirroredStrategy",
    "Piecewise",
    "CyclicTopK",
    "PowerSGD",
    "Ramp",
    "RandomK",
    "Schedule",
    "Sign",
    "SparseGradient",
    "SparsifiedCrossDeviceOps",
    "SparsifiedOptimizer",
    "Sparsifier",
    "Stopped",
    "Sum",
    "TensorBoardSparsification",
    "TopK",
    "TopKSchedule",
    "__version__",
    "is_chief",
    "predict",
    "require_same_on_all_workers",
    "testing",
]
