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
    """Paths of the libraries to load first, if the compiler has a sanitizer.

    That of C++ as well: the sanitizer looks for what throws exceptions at its start,
    and packages that throw come later.
    """
    if shutil.which("g++") is None:
        return None
    paths = []
    for name in ("libasan.so", "libstdc++.so"):
        command = ["g++", f"-print-file-name={name}"]
        result = subprocess.run(command, capture_output=True, text=True)
        paths.append(result.stdout.strip())
    return " ".join(paths) if all(map(os.path.isabs, paths)) else None


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
