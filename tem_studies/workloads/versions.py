"""Versions of everything that a result depends on."""

from __future__ import annotations

import platform


def versions() -> dict[str, str]:
    """By name. Imports them, which a file that checks settings must not do."""
    import keras
    import numpy as np
    import tensorflow as tf

    import tem_tf

    return {
        "tem_tf": tem_tf.__version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }
