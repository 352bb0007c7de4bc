"""Ctrl-C in a single run: what there is is written, and the exit code is 130."""

import json

import jsonschema
import pytest
from absl.testing import flagsaver

from tem_studies import command_line
from tem_studies.workloads import training
from tem_studies.workloads.evaluation import Evaluation
from tem_studies.workloads.logdir import SCHEMA_PATH
from tem_studies.workloads.results import read_steps

# Keras 3.15 asks numpy 2 for an array in the old way when it saves.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)

SHORT = (
    "--datasource digits --target_sparsity 0.5 --batch_size 30 --train_iterations 9 "
    "--check_interval 3 --compressor topk --density 0.1 --evaluation_examples 20"
)


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs main.py in this process; Ctrl-C comes as a function is called."""

    def run(flags="", within=None, when=lambda *_: True):
        def interrupted(self, *arguments):
            if when(self, *arguments):
                raise KeyboardInterrupt
            return original(self, *arguments)

        with flagsaver.flagsaver(), monkeypatch.context() as patch:
            for name in command_line.FLAGS:
                command_line.FLAGS[name].present = 0
            if within is not None:
                original = getattr(*within)
                patch.setattr(*within, interrupted)
            words = f"main.py {SHORT} --logdir {tmp_path / 'run'} {flags}".split()
            code = command_line.main(words)
        for name in command_line.FLAGS:
            command_line.FLAGS[name].present = 0
        return code, tmp_path / "run"

    return run


def result_of(folder):
    result = json.loads((folder / "result.json").read_text())
    jsonschema.validate(result, json.loads(SCHEMA_PATH.read_text()))
    return result


def after(steps):
    return lambda trainer, _: trainer.steps >= steps


def test_within_training_the_history_is_kept(command, capsys):
    code, folder = command("", (training.Trainer, "run"), after(6))
    assert code == 130
    result = result_of(folder)
    assert (result["status"], result["steps"], result["test"]) == (
        *("interrupted", 6),
        None,
    )
    assert [check["step"] for check in result["history"]] == [3, 6]
    assert len(read_steps(folder)["error"]) == 6
    said = capsys.readouterr()
    assert "interrupted after 6 steps: their history is in" in said.out
    assert said.err == "main.py: interrupted\n"


def test_within_the_test_weights_are_kept_too(command):
    code, folder = command(
        "", (Evaluation, "last"), lambda _, split, phase: phase == "test"
    )
    assert code == 130
    result = result_of(folder)
    assert (result["status"], result["steps"]) == ("interrupted", 9)
    assert [check["step"] for check in result["history"]] == [3, 6, 9]
    assert (folder / "checkpoints" / "step-000009.weights.h5").exists()


def test_before_the_first_step_there_is_nothing_to_keep(command):
    code, folder = command("", (training.Trainer, "run"))
    assert code == 130
    assert not (folder / "result.json").exists()


@pytest.mark.slow  # Three runs.
def test_a_run_that_can_go_on_does(command, capsys):
    resume = "--resume auto --resume_interval 3"
    assert command(resume, (training.Trainer, "run"), after(6))[0] == 130
    code, folder = command(resume)
    assert code == 0
    assert "goes on after" in capsys.readouterr().out
    result = result_of(folder)
    assert (result["status"], result["steps"]) == ("finished", 9)
    assert [check["step"] for check in result["history"]] == [3, 6, 9]


def test_no_more_examples_are_evaluated_than_asked_for(command, capsys):
    code, folder = command()
    assert code == 0
    result = result_of(folder)
    assert result["configuration"]["evaluation_examples"] == 20
    assert (result["data"]["validation"], result["data"]["test"]) == (20, 20)
    assert (20 * result["test"]["accuracy"]) % 1 == pytest.approx(0, abs=1e-5)
    assert "20 to validate, 20 to test" in capsys.readouterr().out
