"""Building the native library where it is first wanted: by whom, once, and how said."""

import os
import subprocess
import sys
import threading
import time
import warnings

import keras
import pytest
import tensorflow as tf

import tem_tf
from tem_tf import native
from tem_tf.native import building
from tem_tf.native.lock import exclusive

# A compiler for these tests: writes down that it was called, and the file after -o.
COMPILER = """#!/bin/sh
echo called >> {log}
while [ "$1" != -o ]; do shift; done
sleep {seconds}
echo made > "$2"
"""
NOT_BUILT = "tem_tf goes on without native kernels, more slowly and with the same "
# What a training does first.
MAKE_OPTIMIZER = (
    "import keras, tem_tf\n"
    "tem_tf.SparsifiedOptimizer(keras.optimizers.SGD(), tem_tf.HardThreshold(1.0))\n"
)


def forget():
    """As if this process had not asked for the library yet."""
    native._find.cache_clear()
    native._prepare_once.cache_clear()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty place for the library, and nothing said about it; returns its path."""
    directory = tmp_path / "cache" / "tem_tf"
    monkeypatch.delenv("TEM_TF_NATIVE", raising=False)
    monkeypatch.setattr(building, "_directories", lambda: [directory])
    # What is made here is no library.
    monkeypatch.setattr(tf, "load_op_library", lambda path: os)
    forget()
    yield directory
    forget()


@pytest.fixture
def use_compiler(tmp_path, monkeypatch):
    """Names a compiler in CXX; returns the file that its calls are written to."""

    def name(program=COMPILER, seconds=0.0):
        path, log = tmp_path / "compiler", tmp_path / "log"
        path.write_text(program.format(log=log, seconds=seconds))
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))
        return log

    return name


def make_optimizer(compressor=None):
    return tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(), compressor or tem_tf.HardThreshold(1.0)
    )


def test_the_first_sparsifier_builds_and_says_so(cache, use_compiler, capsys):
    log = use_compiler()
    make_optimizer()
    assert native.status().in_use
    said = (
        "tem_tf: building the native kernels, once for TensorFlow "
        f"{tf.__version__} (some seconds to a minute) ...\n"
    )
    assert capsys.readouterr().err == said
    calls = log.read_text()
    make_optimizer()
    forget()  # Another process.
    make_optimizer()
    assert log.read_text() == calls
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("mode", ["0", "built", "avx2", "scalar", "sanitize"])
def test_only_where_it_is_not_set_to_something_else(
    cache, use_compiler, monkeypatch, mode
):
    log = use_compiler()
    monkeypatch.setenv("TEM_TF_NATIVE", mode)
    make_optimizer()
    assert not log.exists()


def test_nothing_else_builds(cache, use_compiler):
    log = use_compiler()
    make_optimizer(tem_tf.Identity())  # Has no use for it.
    assert not native.status().in_use
    assert native.library() is None
    assert "or let the first training do it" in native.status().reason
    assert not log.exists()


def test_without_a_compiler_nothing_is_said(cache, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    make_optimizer()  # A warning would be an error here.
    assert capsys.readouterr().err == ""
    assert not cache.exists()


def test_a_failure_is_one_warning_and_is_remembered(
    cache, use_compiler, monkeypatch, capsys
):
    log = use_compiler("#!/bin/sh\necho called >> {log}\necho broken >&2\nexit 1\n")
    with pytest.warns(UserWarning, match=NOT_BUILT) as seen:
        make_optimizer()
        make_optimizer()
    (warning,) = seen
    assert warning.filename == __file__
    assert "broken\nTrainings do not try again." in str(warning.message)
    assert "run python -m tem_tf.native build." in str(warning.message)
    failure = building.find_failure(sanitize=False)
    assert failure is not None
    assert "broken" in failure.read_text()
    said = f"building it failed, {failure} says why: put that right and run python -m"
    assert native.status().reason.startswith(said)
    calls = log.read_text()
    capsys.readouterr()

    forget()  # Another process.
    make_optimizer()
    assert log.read_text() == calls
    assert capsys.readouterr().err == ""
    assert native.status().reason.startswith(said)

    use_compiler()
    path = native.build()  # By hand it is tried again.
    assert native.status() == (True, f"built for TensorFlow {tf.__version__}", path)
    assert not failure.exists()


def test_where_nothing_can_be_written_it_goes_on(
    cache, use_compiler, monkeypatch, tmp_path, capsys
):
    log = use_compiler()
    (tmp_path / "file").touch()
    monkeypatch.setattr(building, "_directories", lambda: [tmp_path / "file" / "x"])
    with pytest.warns(UserWarning, match=f"{NOT_BUILT}.*Set XDG_CACHE_HOME") as seen:
        make_optimizer()
        make_optimizer()
    assert len(seen) == 1
    assert capsys.readouterr().err == ""
    assert not log.exists()


def test_a_full_disk_is_a_warning(cache, use_compiler, monkeypatch):
    use_compiler()

    def refuse(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.warns(UserWarning, match="cannot be written: .*No space left on dev"):
        make_optimizer()
    assert building.find_failure(sanitize=False) is None  # It is tried again.


def test_what_was_left_by_killed_builds_is_removed(cache, use_compiler):
    old, new = cache / ".building-old", cache / ".building-new"
    for path in (old, new):
        path.mkdir(parents=True)
        (path / "select_op.o").touch()
    os.utime(old, (0, 0))
    use_compiler()
    make_optimizer()
    assert not old.exists()
    assert new.exists()  # It may be somebody's who has no lock.


# -------------------------------------------------------------------- several processes


def test_of_two_processes_one_builds_and_the_other_waits(tmp_path, use_compiler):
    log = use_compiler(seconds=1.0)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    del environment["TEM_TF_NATIVE"]
    command = [sys.executable, "-W", "ignore", "-c", MAKE_OPTIMIZER]
    both = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        said = "".join(process.communicate(timeout=120)[1] for process in both)
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], said
    assert said.count("building the native kernels, once") == 1, said
    sources = len(list(building.SOURCES.glob("*.cc")))
    assert log.read_text().count("called") == sources + 1  # And linking.


def test_who_waits_for_long_says_so_and_takes_what_was_built(
    cache, use_compiler, capsys
):
    use_compiler()
    cache.mkdir(parents=True)
    held = threading.Event()

    def build_elsewhere():
        with exclusive(cache / building._LOCK, lambda: None):
            held.set()
            time.sleep(1.5)
            (cache / building._name(sanitize=False)).write_text("made elsewhere")

    other = threading.Thread(target=build_elsewhere)
    other.start()
    held.wait()
    make_optimizer()
    other.join()
    assert capsys.readouterr().err == (
        "tem_tf: waiting for another process that builds the native kernels ...\n"
    )
    path = native.status().path
    assert path is not None
    assert path.read_text() == "made elsewhere"


def test_who_waited_for_a_failure_does_not_try_again(cache, use_compiler):
    log = use_compiler()
    cache.mkdir(parents=True)
    held = threading.Event()

    def fail_elsewhere():
        with exclusive(cache / building._LOCK, lambda: None):
            held.set()
            time.sleep(0.2)
            (cache / (building._name(sanitize=False) + building._FAILED)).touch()

    other = threading.Thread(target=fail_elsewhere)
    other.start()
    held.wait()
    make_optimizer()
    other.join()
    assert not log.exists()


@pytest.mark.parametrize("why", ["no locks", "no such folder"])
def test_without_a_lock_it_goes_on(tmp_path, monkeypatch, why):
    def refuse(descriptor, operation):
        raise OSError(37, "No locks available")

    if why == "no locks":
        monkeypatch.setattr("fcntl.flock", refuse)
        path = tmp_path / "lock"
    else:
        path = tmp_path / "absent" / "lock"
    entered = 0
    with exclusive(path, lambda: None):
        entered += 1
    assert entered == 1


def test_an_error_under_a_lock_is_not_swallowed(tmp_path):
    with (
        pytest.raises(OSError, match="of the one inside"),
        exclusive(tmp_path / "lock", lambda: None),
    ):
        raise OSError("of the one inside")
    with warnings.catch_warnings(), exclusive(tmp_path / "lock", lambda: None):
        pass  # It was given back.
