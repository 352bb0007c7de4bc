"""The kernels' tests under AddressSanitizer and in other processors' instructions.

Each is a process of its own; the sanitizer ends it at a wrong access.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tem_tf import native
from tests.native_cases import needs_native

ROOT = pathlib.Path(__file__).parents[1]
PASSES = ("native_selection", "native_memories")  # In the widest registers.


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


def run_tests(*names: str, **environment: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, *(f"tests/test_{name}.py" for name in names)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert " passed" in result.stdout
    assert "skipped" not in result.stdout


@pytest.mark.slow
@pytest.mark.skipif(sanitizer() is None, reason="g++ or its libasan is missing")
def test_selection_and_summation_touch_only_what_is_theirs():
    native.build(sanitize=True)
    run_tests(
        *(*PASSES, "wire_sums"),
        TEM_TF_NATIVE="sanitize",
        LD_PRELOAD=sanitizer() or "",
        ASAN_OPTIONS="detect_leaks=0",  # Python and TensorFlow leave memory behind.
    )


@pytest.mark.slow
@needs_native
@pytest.mark.parametrize("widest", ["avx2", "scalar"])
def test_processors_without_wide_registers_select_the_same(widest):
    run_tests(*PASSES, TEM_TF_NATIVE=widest)
