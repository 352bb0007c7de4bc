"""Building and finding the native library, and what is said where it is not there."""

import concurrent.futures
import os
import subprocess
import sys

import pytest
import tensorflow as tf

from tem_tf import native
from tem_tf.native import __main__, building
from tests.native_cases import needs_native

# A compiler for these tests: writes the file after -o.
COMPILER = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
sleep 0.1
echo made > "$2"
"""


TORN = "goes on without .*cannot be loaded, build it anew by .*native build --force"


def forget():
    """As if this process had not asked for the library yet."""
    native._find.cache_clear()
    native._prepare_once.cache_clear()


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """Nothing was built; returns the user's cache directory."""
    monkeypatch.delenv("TEM_TF_NATIVE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        building, "_directories", lambda: [tmp_path / "cache" / "tem_tf"]
    )
    forget()
    yield tmp_path / "cache" / "tem_tf"
    forget()


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    path = tmp_path / "compiler"
    path.write_text(COMPILER)
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))


def test_status_without_a_library(empty):
    status = native.status()
    assert not status.in_use
    assert "not built" in status.reason
    assert "python -m tem_tf.native build" in status.reason
    assert native.library() is None


def test_status_without_a_compiler(empty, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "install a C++ compiler (`no-such-compiler`" in native.status().reason


def test_status_with_a_library_of_another_tensorflow(empty):
    empty.mkdir(parents=True)
    (empty / "tem_tf-native-tf2.0.0-x86_64-0123.so").touch()
    reason = native.status().reason
    assert f"built for another version than TensorFlow {tf.__version__}" in reason


def test_status_with_a_library_of_other_sources(empty):
    empty.mkdir(parents=True)
    (empty / f"tem_tf-native-tf{tf.__version__}-x86_64-0123.so").touch()
    assert "built from other sources or flags" in native.status().reason


def test_status_where_it_is_switched_off(monkeypatch):
    monkeypatch.setenv("TEM_TF_NATIVE", "0")
    assert native.status() == (False, "switched off by TEM_TF_NATIVE=0", None)
    assert native.library() is None


def test_status_refuses_other_values(monkeypatch):
    monkeypatch.setenv("TEM_TF_NATIVE", "off")
    with pytest.raises(ValueError, match="must be 0, 1, .*Received: .*=off"):
        native.status()


def test_a_library_that_cannot_be_loaded_is_one_warning(empty, compiler):
    path = native.build()
    with pytest.warns(UserWarning, match=TORN) as seen:
        assert native.library() is None
        assert native.library() is None
    assert len(seen) == 1
    assert native.status().path == path


def test_workers_may_build_at_once(empty, compiler):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: native.build(force=True), range(4)))
    assert set(paths) == {building.find(sanitize=False)}
    assert set(os.listdir(empty)) == {paths[0].name, "building.lock"}
    assert paths[0].read_text() == "made\n"


def test_what_is_built_is_not_built_again(empty, compiler, monkeypatch):
    path = native.build()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert native.build() == path


def test_every_source_counts(empty, compiler, monkeypatch, tmp_path):
    first = native.build()
    sources = tmp_path / "src"
    sources.mkdir()
    for path in building.SOURCES.iterdir():
        (sources / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(building, "SOURCES", sources)
    assert native.build() == first
    (sources / "another.cc").write_text("int another;\n")
    assert native.build() != first


@pytest.fixture
def unreadable(monkeypatch, tmp_path):
    """A cache that cannot be looked into, by root neither; returns the other place."""
    monkeypatch.delenv("TEM_TF_NATIVE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / (300 * "x")))
    directories = building._directories()
    monkeypatch.setattr(
        building, "_directories", lambda: [directories[0], tmp_path / "package"]
    )
    forget()
    yield tmp_path / "package"
    forget()


def test_a_cache_that_cannot_be_read_is_left_out(unreadable, compiler):
    assert native.status().reason.startswith("not built: run python -m")
    path = native.build()
    assert path.parent == unreadable
    assert building.find(sanitize=False) == path


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/tem_tf"),
        ({"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/tem_tf"),
        ({"XDG_CACHE_HOME": "c", "HOME": "/h"}, "/h/.cache/tem_tf"),
        ({"XDG_CACHE_HOME": "c", "HOME": "h"}, None),
    ],
)
def test_the_cache_is_never_below_the_working_directory(
    variables, expected, monkeypatch
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    *caches, package = map(str, building._directories())
    assert caches == ([] if expected is None else [expected])
    assert package == str(building.SOURCES.parent / "built")


def test_a_compiler_with_arguments(empty, tmp_path, monkeypatch):
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f"#!/bin/sh\necho $1 >> {tmp_path}/log\n{COMPILER[10:]}")
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", f" {wrapper} g++ ")
    native.build()
    assert set((tmp_path / "log").read_text().split()) == {"g++"}


def test_building_without_a_compiler(empty, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(native.BuildError, match="No C\\+\\+ compiler: `no-such-comp"):
        native.build()


def test_building_with_a_compiler_that_fails(empty, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(
        native.BuildError, match=r"compiler failed \(.*false, exit code 1"
    ):
        native.build()
    left = set(os.listdir(empty))
    assert left == {building._name(False) + ".failed", "building.lock"}


def test_building_where_nothing_can_be_written(compiler, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(building, "_directories", lambda: [tmp_path / "file" / "x"])
    with pytest.raises(native.BuildError, match="can be written. Set XDG_CACHE_HOME"):
        native.build()


def test_command_line_says_that_a_build_failed(tmp_path):
    environment = {
        **os.environ,
        "CXX": "no-such-compiler",
        "XDG_CACHE_HOME": str(tmp_path),
    }
    command = [sys.executable, "-m", "tem_tf.native"]
    result = subprocess.run(
        [*command, "build", "--force"], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.count("warning: the native kernels were not built") == 1


def test_command_line_refuses_other_values(monkeypatch, capsys):
    monkeypatch.setenv("TEM_TF_NATIVE", "off")
    monkeypatch.setattr(sys, "argv", ["tem_tf.native", "status"])
    with pytest.raises(SystemExit, match="2"):
        __main__.main()
    assert "error: `TEM_TF_NATIVE` must be 0, 1, built, sani" in capsys.readouterr().err


@needs_native
def test_the_library_is_in_use():
    status = native.status()
    assert status.in_use
    assert status.path is not None
    assert f"built for TensorFlow {tf.__version__}" in status.reason
