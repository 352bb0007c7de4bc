"""Compiling `src/*.cc` into one library, and finding it again.

A library is named after the version of TensorFlow, whose C++ interface changes with
every one, and a hash of all that it is made from. It is compiled under another name and
then renamed, so that several workers may build at once and none loads half of one.
"""

from __future__ import annotations

import concurrent.futures
import glob
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile

import tensorflow as tf

SOURCES = pathlib.Path(__file__).parent / "src"
_PREFIX = "tem_tf-native"
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
    flags = [*_FLAGS, *(_SANITIZE if sanitize else ())]
    with tempfile.TemporaryDirectory(prefix=".building-", dir=directory) as scratch:

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
        os.replace(made, path)
    return path


def find(sanitize: bool) -> pathlib.Path | None:
    """The library for this TensorFlow and these sources, if it was built."""
    paths = [directory / _name(sanitize) for directory in _directories()]
    # pathlib would raise where a directory may not be entered.
    return next((path for path in paths if os.path.isfile(path)), None)


def command_to_build(sanitize: bool) -> str:
    """What to type."""
    return "python -m tem_tf.native build" + (" --sanitize" if sanitize else "")


def why_not_built(sanitize: bool) -> str:
    """Why there is no library, and what to do."""
    command = command_to_build(sanitize)
    advice = f"run {command}"
    if _compiler() is None:
        advice = (
            f"install a C++ compiler (`{_compiler_name()}` is not there) and {advice}"
        )
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
