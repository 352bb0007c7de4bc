"""Files appear whole or not at all, in the order that a power cut asks for."""

import errno
import json
import os
import pathlib
import resource
import subprocess
import sys

import pytest

from tem_tf import durable_files

FORMS = {
    "bytes": lambda path: durable_files.write_bytes(path, b"new"),
    "text": lambda path: durable_files.write_text(path, "new"),
    "json": lambda path: durable_files.write_json(path, {"new": 1}),
    "open": lambda path: write_in_block(durable_files.opened(path)),
    "path": lambda path: write_in_block(durable_files.replacing(path)),
}


def write_in_block(block):
    with block as place:
        if isinstance(place, pathlib.Path):
            place.write_text("new")
        else:
            place.write("new")


def each_form(function):
    return pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)(function)


@pytest.fixture
def calls(monkeypatch):
    """What the writer asks of the operating system, in order, by file names."""
    recorded = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        place = pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        size = place.stat().st_size if place.is_file() else None
        recorded.append(("fsync", place, size))
        fsync(descriptor)

    def recorded_replace(source, target):
        recorded.append(("replace", pathlib.Path(source), pathlib.Path(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    return recorded


@each_form
def test_content_is_synced_before_the_name_and_the_name_after(tmp_path, calls, write):
    path = tmp_path / "file"
    write(path)
    partial = tmp_path / f".partial-{os.getpid()}-file"
    assert calls == [
        ("fsync", partial, path.stat().st_size),  # All of it has left our buffers.
        ("replace", partial, path),
        ("fsync", tmp_path, None),
    ]
    assert "new" in path.read_text()


def test_json_ends_with_a_newline_and_has_no_infinity(tmp_path):
    path = tmp_path / "file.json"
    durable_files.write_json(path, {"a": [1, 2]})
    assert json.loads(path.read_text()) == {"a": [1, 2]}
    assert path.read_text().endswith("}\n")
    with pytest.raises(ValueError, match="Out of range float values"):
        durable_files.write_json(path, {"a": float("inf")})
    assert json.loads(path.read_text()) == {"a": [1, 2]}


@pytest.mark.parametrize("error", [ValueError("ours"), KeyboardInterrupt()])
def test_error_in_the_block_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)), durable_files.opened(path) as file:
        file.write("half")
        file.flush()
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@each_form
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_leaves_what_was_there(tmp_path, monkeypatch, write, call):
    """A disk may say that it is full as late as at the sync."""
    path = tmp_path / "file"
    path.write_text("old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left on device"):
        write(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_file_beyond_the_limit_leaves_what_was_there(tmp_path):
    """A real write that fails: beyond the process's limit of a file's size."""
    path = tmp_path / "file"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            durable_files.write_bytes(path, bytes(1 << 17))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@each_form
def test_missing_directory_is_an_error(tmp_path, write):
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "removed" / "file")


@each_form
def test_directory_in_the_place_of_the_file_is_an_error(tmp_path, write):
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        write(tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_directory_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        durable_files.write_text(tmp_path / "file", "new")


def test_symbolic_link_stays_one(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "target"
    target.write_text("old")
    (tmp_path / "link").symlink_to(target)
    durable_files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert target.read_text() == "new"


def test_device_is_written_as_it_is():
    with pytest.raises(OSError, match="No space left on device"):
        durable_files.write_text("/dev/full", "new")
    durable_files.write_text("/dev/null", "new")
    assert pathlib.Path("/dev/null").is_char_device()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO], ids=["none", "broken"])
def test_file_system_that_syncs_no_directories_is_no_error(
    tmp_path, monkeypatch, number
):
    """But a disk that fails is one, even if the file is there."""
    fsync = os.fsync

    def refuses(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuses)
    if number == errno.EIO:
        with pytest.raises(OSError, match="Input/output error"):
            durable_files.write_text(tmp_path / "file", "new")
    else:
        durable_files.write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


def test_made_directories_are_synced_into_their_parents(tmp_path, calls):
    durable_files.make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert {place for _, place, _ in calls} == {tmp_path, tmp_path / "a"}
    calls.clear()
    durable_files.make_directory(tmp_path / "a" / "b")
    assert calls == []
    with pytest.raises(FileNotFoundError):
        durable_files.make_directory(tmp_path / "c" / "d", parents=False)
    with pytest.raises(FileExistsError):
        durable_files.make_directory(tmp_path / "a" / "b", exist_ok=False)


def test_files_of_others_are_synced_by_pattern(tmp_path, calls):
    for name in ("events.1", "events.2", "other"):
        (tmp_path / name).write_text("x")
    durable_files.sync_files(tmp_path, "events.*")
    synced = [place.name for _, place, _ in calls]
    assert sorted(synced[:-1]) == ["events.1", "events.2"]
    assert synced[-1] == tmp_path.name
    durable_files.sync_files(tmp_path / "missing", "events.*")


def test_what_killed_writers_left_is_removed(tmp_path):
    program = (
        "import os, sys; from tem_tf_run import load_part\n"
        "with load_part('durable_files').opened(sys.argv[1]) as file:\n"
        "    file.write('half'); file.flush(); os.kill(os.getpid(), 9)\n"
    )
    (tmp_path / "file").write_text("old")
    command = [sys.executable, "-c", program, str(tmp_path / "file")]
    assert subprocess.run(command).returncode == -9
    assert len(os.listdir(tmp_path)) == 2
    durable_files.remove_partials(tmp_path)
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"
