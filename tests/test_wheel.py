"""The wheel as its user has it: what is in it, and training where only it is there.

It is built from a copy of the checkout, and installed in an environment of its own,
which sees what this one has installed but not this checkout.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile

import pytest

from tem_tf.launch.worker_processes import HOST, reserve_ports

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "two_workers.py"
FOLDERS = (
    *("benchmarks", "docs", "examples", "launch"),
    *("tem_studies", "tem_tf", "tests"),
)
SECONDS = 120  # For two workers; they take 12 s on two idle cores.
# What is set for the tests' own processes must not lead these to the checkout.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("PYTHONPATH", "PYTHONHOME", "TF_CONFIG", "VIRTUAL_ENV")
}

pytestmark = pytest.mark.multi_worker


def run(*command, cwd):
    """Runs a program that must succeed; returns what it wrote."""
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder with both distributions; the wheel is built from the other one."""
    copy = tmp_path_factory.mktemp("copy")
    built = shutil.ignore_patterns("__pycache__", "built")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=built)
    files = [*ROOT.glob("studies/*/*.py"), *ROOT.glob("*.*"), ROOT / "LICENSE"]
    for path in files:
        if path.is_file():
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    run(sys.executable, "-m", "build", "--no-isolation", ".", cwd=copy)
    return copy / "dist"


@pytest.fixture(scope="module")
def wheel(dist):
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """The folder of programs of an environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", wheel]
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=folder)
    # Afterwards, or pip would find this checkout's own installation among them. Lines
    # of .pth files in these folders, by which it is imported, are not followed.
    (packages,) = folder.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if path.endswith("-packages")]
    (packages / "dependencies.pth").write_text("\n".join(ours))
    where = "import importlib.util as u; print(u.find_spec('{}').origin)"
    for name in ("tem_tf", "tem_studies", "tem_tf_run"):
        found = run(python, "-c", where.format(name), cwd=folder)
        assert pathlib.Path(found).is_relative_to(packages)
    return folder / "bin"


def train(commands, environments, folder):
    """Runs the README's script by several processes at once; returns their outputs."""
    shutil.copy(EXAMPLE, folder)
    deadline = time.monotonic() + SECONDS
    with contextlib.ExitStack() as stack:
        # Files, not pipes: a worker whose pipe is full would keep the others waiting.
        logs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        processes = []
        try:
            for command, extra, log in zip(commands, environments, logs, strict=True):
                process = subprocess.Popen(
                    [str(word) for word in command],
                    cwd=folder,
                    env={**ENVIRONMENT, **extra},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                processes.append(process)
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            # The launcher's own workers end with it.
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        outputs = []
        for log in logs:
            log.seek(0)
            outputs.append(log.read())
    assert [process.returncode for process in processes] == [0] * len(processes), (
        "\n---\n".join(output[-4000:] for output in outputs)
    )
    return outputs


def last_words(text):
    return re.findall(r"2 workers, 64 steps: [\d.e-]+ % of .* were sent", text)


def test_what_is_in_the_wheel(wheel):
    wanted = {"tem_tf_run.py", "tem_tf/py.typed"}
    patterns = ["tem_tf/**/*.py", "tem_studies/**/*.py", "tem_tf/native/src/*"]
    for pattern in [*patterns, "tem_studies/**/*.schema.json"]:
        wanted |= {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == wanted


def test_an_index_would_take_both_and_show_the_readme(dist, wheel):
    paths = list(dist.iterdir())
    assert len(paths) == 2
    run(sys.executable, "-m", "twine", "check", "--strict", *paths, cwd=dist)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(name).decode()
    assert "docs/native.md says when" in text
    assert re.findall(r"\]\((?!https?:)", text) == []  # Paths beside it are not there.


def test_the_example_is_the_readme(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (diff,) = re.findall(r"```diff\n(.*?)```", readme, re.DOTALL)
    after = [line[1:] for line in diff.splitlines() if not line.startswith("-")]
    lines = iter(EXAMPLE.read_text(encoding="utf-8").splitlines())
    for line in filter(None, after):
        assert line in lines  # After where the one before was found.


def test_two_workers_by_the_launcher(programs, tmp_path):
    launcher = [programs / "tem-tf-run", "--workers", "2", "--"]
    (output,) = train([[*launcher, "python", EXAMPLE.name]], [{}], tmp_path)
    first, second = last_words(output)
    assert first == second
    assert list(tmp_path.glob("logs/communication/events.*"))


def test_two_workers_by_a_tf_config_of_ones_own(programs, tmp_path):
    addresses = [f"{HOST}:{port}" for port in reserve_ports(2)]
    configs = [
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        for index in range(2)
    ]
    outputs = train(
        [[programs / "python", EXAMPLE.name]] * 2,
        [{"TF_CONFIG": json.dumps(config)} for config in configs],
        tmp_path,
    )
    first, second = (last_words(output) for output in outputs)
    assert len(first) == 1
    assert first == second


def test_the_program_says_what_it_can_do(programs, tmp_path):
    assert "--datasource" in run(programs / "tem-tf", "--help", cwd=tmp_path)
