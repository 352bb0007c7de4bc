"""What a user of the program reads who installed tem_tf without the extra `studies`."""

import os
import pathlib
import subprocess
import sys

import pytest
from absl.testing import flagsaver

from tem_studies import command_line

ROOT = pathlib.Path(__file__).parents[2]
# What the extra brings, by the names that are imported.
EXTRA = "importlib_resources matplotlib scipy sklearn tensorboard tensorflow_datasets"
RUN = "--datasource digits --train_iterations 1 --batch_size 10"


def said_of(package):
    return (
        f"main.py: error: The package {package} is missing. Run pip install {package}."
    )


def without(monkeypatch, names):
    """Makes modules missing, in this process, for this test."""
    for name in names.split():
        for loaded in list(sys.modules):
            if loaded.split(".")[0] == name:
                monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize(
    ("missing", "arguments", "expected"),
    [
        (EXTRA, "--help", 0),
        ("scipy", "--arch logistic-regression", 1),
    ],
)
def test_in_a_process_of_its_own(tmp_path, missing, arguments, expected):
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({missing.split()}))\n"
        "from tem_studies.command_line import main\n"
        f"sys.exit(main(['main.py', *{arguments.split()}]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == expected, result.stderr
    if expected == 0:
        assert "--datasource" in result.stdout
    else:
        assert result.stderr.splitlines()[-1] == said_of("scipy")
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("missing", "named", "arguments"),
    [
        ("sklearn", "scikit-learn", ""),
        ("tensorboard", "tensorboard", ""),
        ("matplotlib", "matplotlib", "--nruns 2"),
        ("scipy", "scipy", "--compare none,topk --budgets 0.1"),
    ],
)
def test_a_missing_package_is_one_line(
    monkeypatch, tmp_path, capsys, missing, named, arguments
):
    without(monkeypatch, missing)
    monkeypatch.chdir(tmp_path)
    with flagsaver.flagsaver():
        assert command_line.main(["main.py", *RUN.split(), *arguments.split()]) == 1
    assert capsys.readouterr().err == said_of(named) + "\n"
    assert not list(tmp_path.iterdir())  # Before any work.
