"""How the program first imports TensorFlow: without TensorFlow's own log lines.

They tell of TensorFlow's build and of graphics cards that are not there, and bury what
the program says. TF_CPP_MIN_LOG_LEVEL=0 to 2 in the environment asks for them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tem_studies.missing_packages import importing

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# For --help.
HOW_TO_ASK = f"TensorFlow's own log lines: set {_LEVEL}=0 in the environment."
_NOTHING = 3  # of TensorFlow's levels: fatal errors alone
_STDERR = 2  # the file descriptor


def start_tensorflow() -> None:
    """Imports TensorFlow and Keras. Call it before anything else that does.

    Processes that this one starts have the same level in their environment, and call
    it themselves.

    Raises:
        Refusal: they are not installed, or do not work as they are.
    """
    if _is_asked_for(os.environ.setdefault(_LEVEL, str(_NOTHING))):
        with importing():
            import_tensorflow()
        return
    import logging

    with importing(), _stderr_held_back():
        import_tensorflow()
    # Python's part: "… retracing", "… eagerly has significant overhead".
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def import_tensorflow() -> None:
    """Imports both."""
    import keras  # noqa: F401
    import tensorflow  # noqa: F401


def _is_asked_for(level: str) -> bool:
    return level.strip().isdecimal() and int(level) < _NOTHING


@contextmanager
def _stderr_held_back() -> Iterator[None]:
    """Holds back what is written to file descriptor 2; shows it if the block raises.

    Two of TensorFlow's libraries write there as they are loaded, whatever the level.
    """
    import shutil
    import tempfile

    try:
        kept = os.dup(_STDERR)
    except OSError:  # It is closed: nothing can be shown, nor held back.
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file, open(kept, "wb") as shown:
        os.dup2(file.fileno(), _STDERR)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            file.seek(0)
            shutil.copyfileobj(file, shown)
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, _STDERR)
