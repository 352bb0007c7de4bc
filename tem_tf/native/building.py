"""Compiling `src/*.cc` into one library, and finding it again.

A library is named after the version of TensorFlow, whose C++ interface changes with
every one, and a hash of all that it is made from. One process builds at a time, the
others wait and find it built. It is compiled under another name, synced and then
renamed, so that none loads half of one even where there are no locks. A build that
fails leaves its reason under the library's name, so that not every training tries
again.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import glob
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time

import tensorflow as tf

from tem_tf import durable_files
from tem_tf.native.lock import exclusive

SOURCES = pathlib.Path(__file__).parent / "src"
_PREFIX = "tem_tf-native"
_FAILED = ".failed"  # Added to the library's name.
_LOCK = "building.lock"
_SCRATCH = ".building-"
_SECONDS_OF_LEFTOVERS = 86_400  # A day: no build takes so long, wherever it runs.
# No -march: the sources ask the processor themselves. Products and sums are not fused,
# so that no result depends on the processor.
_FLAGS = ("-O3", "-fPIC", "-ffp-contract=off", "-w")
_SANITIZE = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address")
_SECONDS = 600  # For one file; they take 10-40 s.
_LINES = 20  # Of a compiler's messages that an error shows.


class BuildError(RuntimeError):
    """The native library could not be built; its text is for the user."""


def build(sanitize: bool, force: bool) -> pathlib.Path:
    """See `tem_tf.native.build`."""
    found = find(sanitize)
    if found is not None and not force:
        return found
    compiler = _compiler()
    if compiler is None:
        raise BuildError(
            f"No C++ compiler: `{_compiler_name()}` is not there. Install one (Debian "
            "and Ubuntu: apt-get install g++), or name it in the variable CXX."
        )
    directory = _writable_directory()
    with _alone(directory):
        found = find(sanitize)
        if found is not None and not force:  # Built while this process waited.
            return found
        return _build_in(directory, compiler, sanitize)


def build_at_first_use() -> None:
    """Builds the library in a process that would use it, and says so on stderr.

    Without a compiler, or where a build has failed before, it does nothing: neither is
    news to anybody.

    Raises:
        BuildError: this build fails, or no directory can be written.
    """
    compiler = _compiler()
    if compiler is None or find_failure(sanitize=False) is not None:
        return
    directory = _writable_directory()
    with _alone(directory):
        if (find(sanitize=False) or find_failure(sanitize=False)) is not None:
            return  # Another process tried while this one waited.
        _say(
            f"building the native kernels, once for TensorFlow {tf.__version__} "
            "(some seconds to a minute) ..."
        )
        try:
            _build_in(directory, compiler, sanitize=False)
        except BuildError as error:
            if find_failure(sanitize=False) is None:  # It could not be written.
                raise
            raise BuildError(
                f"{error}\nTrainings do not try again. Once that is put right, run "
                f"{command_to_build(sanitize=False)}."
            ) from error


def find_failure(sanitize: bool) -> pathlib.Path | None:
    """The file with the reason why the last build failed, if it did."""
    return _find(_name(sanitize) + _FAILED)


def find(sanitize: bool) -> pathlib.Path | None:
    """The library for this TensorFlow and these sources, if it was built."""
    return _find(_name(sanitize))


def command_to_build(sanitize: bool) -> str:
    """What to type."""
    return "python -m tem_tf.native build" + (" --sanitize" if sanitize else "")


def why_not_built(sanitize: bool, at_first_use: bool) -> str:
    """Why there is no library, and what to do.

    Args:
        sanitize: Bool. Whether the one for AddressSanitizer.
        at_first_use: Bool. Whether a training would build it.
    """
    advice = f"run {command_to_build(sanitize)}"
    failure = find_failure(sanitize)
    if failure is not None:
        return f"building it failed, {failure} says why: put that right and {advice}"
    if _compiler() is None:
        advice = (
            f"install a C++ compiler (`{_compiler_name()}` is not there) and {advice}"
        )
    elif at_first_use:
        advice += ", or let the first training do it"
    others = [
        name
        for directory in _directories()
        for name in glob.glob(f"{_PREFIX}-*.so", root_dir=directory)
    ]
    same_version = f"{_PREFIX}-tf{tf.__version__}-"
    if any(name.startswith(same_version) for name in others):
        return f"built from other sources or flags, not from these: {advice}"
    if others:
        return f"built for another version than TensorFlow {tf.__version__}: {advice}"
    return f"not built: {advice}"


def _build_in(
    directory: pathlib.Path, compiler: list[str], sanitize: bool
) -> pathlib.Path:
    """Compiles the library, and keeps the reason if that fails."""
    failure = directory / (_name(sanitize) + _FAILED)
    try:
        _remove_leftovers(directory)
        failure.unlink(missing_ok=True)
        return _compile(directory, compiler, sanitize)
    except OSError as error:
        raise BuildError(f"{directory} cannot be written: {error}") from error
    except BuildError as error:
        with contextlib.suppress(OSError):  # Then the next process tries again.
            durable_files.write_text(failure, f"{error}\n")
        raise


def _compile(
    directory: pathlib.Path, compiler: list[str], sanitize: bool
) -> pathlib.Path:
    flags = [*_FLAGS, *(_SANITIZE if sanitize else ())]
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=directory) as scratch:

        def compile_one(source: pathlib.Path) -> str:
            target = str(pathlib.Path(scratch) / f"{source.stem}.o")
            options = [*flags, *tf.sysconfig.get_compile_flags()]
            _run([*compiler, *options, "-c", str(source), "-o", target])
            return target

        sources = sorted(SOURCES.glob("*.cc"))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, sources))
        made = pathlib.Path(scratch) / "library.so"
        options = [*flags, "-shared", *objects, *tf.sysconfig.get_link_flags()]
        _run([*compiler, *options, "-o", str(made)])
        path = directory / _name(sanitize)
        durable_files.commit(made, path)
    return path


def _remove_leftovers(directory: pathlib.Path) -> None:
    """Removes what builds have left that were killed, as workers are by a launcher."""
    for path in directory.glob(f"{_SCRATCH}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() > path.stat().st_mtime + _SECONDS_OF_LEFTOVERS:
                shutil.rmtree(path, ignore_errors=True)


def _alone(directory: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    return exclusive(
        directory / _LOCK,
        lambda: _say("waiting for another process that builds the native kernels ..."),
    )


def _say(text: str) -> None:
    print(f"tem_tf: {text}", file=sys.stderr, flush=True)


def _find(name: str) -> pathlib.Path | None:
    paths = [directory / name for directory in _directories()]
    # pathlib would raise where a directory may not be entered.
    return next((path for path in paths if os.path.isfile(path)), None)


def _name(sanitize: bool) -> str:
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    flags = [*_FLAGS, *(_SANITIZE if sanitize else ())]
    digest.update(" ".join([*flags, tf.version.GIT_VERSION]).encode())
    kind = "-sanitize" if sanitize else ""
    version = f"tf{tf.__version__}-{platform.machine()}"
    return f"{_PREFIX}-{version}-{digest.hexdigest()[:16]}{kind}.so"


def _directories() -> list[pathlib.Path]:
    """Where a library may be: the user's cache, or this package.

    A relative cache does not count (XDG Base Directory Specification). "~" stays where
    nobody knows a home; a folder of that name is not for us to make.
    """
    caches = os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")
    absolute = [pathlib.Path(x) / "tem_tf" for x in caches if os.path.isabs(x)]
    return [*absolute[:1], pathlib.Path(__file__).parent / "built"]


def _writable_directory() -> pathlib.Path:
    for directory in _directories():
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(directory, os.W_OK):
            return directory
    places = ", ".join(str(directory) for directory in _directories())
    raise BuildError(f"None of {places} can be written. Set XDG_CACHE_HOME.")


def _compiler_name() -> str:
    return os.environ.get("CXX", "").strip() or "g++"


def _compiler() -> list[str] | None:
    """The compiler, with arguments where CXX has some, as in "ccache g++"."""
    name, *arguments = _compiler_name().split()
    path = shutil.which(name)
    return None if path is None else [path, *arguments]


def _run(command: list[str]) -> None:
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"The C++ compiler failed: {error}") from error
    if result.returncode != 0:
        messages = "\n".join(result.stderr.splitlines()[:_LINES])
        raise BuildError(
            f"The C++ compiler failed ({command[0]}, exit code {result.returncode}):\n"
            f"{messages}"
        )
