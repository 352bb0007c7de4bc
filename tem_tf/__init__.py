"""Data-parallel Keras training with sparsified gradients.

See `SparsifiedOptimizer` and `MultiWorkerMirroredStrategy`.
"""

import os as _os
import sys as _sys

__version__ = "0.1.0"

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

from tem_tf.callbacks import TensorBoardSparsification
from tem_tf.compressors import (
    Accordion,
    AdaptiveThreshold,
    Compressor,
    HardThreshold,
    Identity,
    Piecewise,
    Ramp,
    RandomK,
    Schedule,
    TopK,
    TopKSchedule,
)
from tem_tf.cross_device_ops import SparsifiedCrossDeviceOps
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
from tem_tf.strategy import MultiWorkerMirroredStrategy, is_chief

__all__ = [
    "Accordion",
    "AdaptiveThreshold",
    "Compressor",
    "DecayingErrorFeedback",
    "EF21",
    "EF21SGDM",
    "ErrorFeedback",
    "HardThreshold",
    "Identity",
    "Memory",
    "MomentumCorrection",
    "MultiWorkerMirroredStrategy",
    "Piecewise",
    "Ramp",
    "RandomK",
    "Schedule",
    "SparseGradient",
    "SparsifiedCrossDeviceOps",
    "SparsifiedOptimizer",
    "TensorBoardSparsification",
    "TopK",
    "TopKSchedule",
    "__version__",
    "is_chief",
]
