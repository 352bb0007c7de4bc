"""The kernels under AddressSanitizer, which ends the process at a wrong access."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tem_tf import native

ROOT = pathlib.Path(__file__).parents[1]


def sanitizer() -> str | None:
    """Path of the sanitizer's library, if the compiler has one."""
    if shutil.which("g++") is None:
        return None
    command = ["g++", "-print-file-name=libasan.so"]
    path = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return path if os.path.isabs(path) else None


@pytest.mark.slow
@pytest.mark.skipif(sanitizer() is None, reason="g++ or its libasan is missing")
def test_selection_and_summation_touch_only_what_is_theirs():
    native.build(sanitize=True)
    environment = {
        **os.environ,
        "TEM_TF_NATIVE": "sanitize",
        "LD_PRELOAD": sanitizer() or "",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python and TensorFlow leave memory behind.
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, "tests/test_native_selection.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert " passed" in result.stdout
    assert "skipped" not in result.stdout
