r"""Trains a network with compressed gradients: of images, text, ratings.

Examples:
  python main.py --datasource digits --train_iterations 500
  python main.py --datasource cifar-10 --arch resnet-8 --target_sparsity 0.9
  python main.py --datasource fashion-mnist --path_data DATA \
      --compressor hard_threshold --threshold 0.01 --workers 2
  python launch/local.py --workers 4 -- python main.py ...
  python main.py --nruns 20 --batch_size 8 32 128 --mparams_kind learning_rate \
      --goal_error 0.15
  python main.py --report studies/NAME
  python main.py --datasource digits --workers 2 --budgets 0.01 \
      --compare none,topk,hard_threshold
"""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from absl import flags

from tem_studies import missing_packages
from tem_studies.comparison.flags import COMPARISON_FLAGS, SHARED_WITH_STUDY, misplaced
from tem_studies.convex.flags import CONVEX_FLAGS as CONVEX_ROWS
from tem_studies.data_parallelism.flags import (
    MAKES_STUDY,
    SEVERAL_MAKE_STUDY,
    STUDY_FLAGS,
)
from tem_studies.flag_row import FlagRow
from tem_studies.workloads.flags import RUN_FLAGS

if TYPE_CHECKING:
    from tem_studies.workloads.configuration import Configuration

FLAGS = flags.FLAGS


class UsageError(Exception):
    """Something that the user can set right; shown in one line, without a traceback."""


class _Number(flags.ArgumentParser):
    """A number; absl's own parsers say "could not convert string to float"."""

    def __init__(self, name: str, kind: type[int] | type[float]) -> None:
        super().__init__()
        self._name, self._kind = name, kind

    def parse(self, argument: Any) -> int | float:
        """Reads one value."""
        try:
            return self._kind(argument)
        except ValueError:
            kind = "an integer" if self._kind is int else "a number"
            advice = " Pass a fraction: 10 % is 0.1." if "%" in argument else ""
            raise ValueError(
                f"`{self._name}` must be {kind}. "
                f"Received: {self._name}={argument!r}.{advice}"
            ) from None

    def flag_type(self) -> str:
        """The type's name in --help."""
        return "integer" if self._kind is int else "number"


class _Several(flags.ArgumentParser):
    """One value as the parser of one reads it, or a tuple of several."""

    def __init__(self, of: flags.ArgumentParser) -> None:
        super().__init__()
        self._of = of

    def parse(self, argument: Any) -> Any:
        """Reads the values, which `_join_several` has put together."""
        words = argument.split(_BETWEEN) if isinstance(argument, str) else [argument]
        values = tuple(self._of.parse(word) for word in words)
        return values if len(values) > 1 else values[0]

    def flag_type(self) -> str:
        """The type's name in --help."""
        return f"{self._of.flag_type()} ..."


# Between the values of one flag; a path may have blanks in it.
_BETWEEN = "\n"


def _define(row: FlagRow) -> None:
    if row.kind is bool:
        flags.DEFINE_boolean(row.name, row.default, row.text)
    elif row.may_repeat:
        flags.DEFINE_multi_string(row.name, row.default, row.text)
    else:
        parser = flags.ArgumentParser()
        if row.kind is not str:
            parser = _Number(row.name, row.kind)
        if row.takes_several:
            parser = _Several(parser)
        flags.DEFINE(parser, row.name, row.default, row.text)


for _rows in (*RUN_FLAGS.values(), STUDY_FLAGS, COMPARISON_FLAGS, CONVEX_ROWS):
    for _row in _rows:
        _define(_row)


def _names(rows: Iterable[FlagRow]) -> str:
    return " ".join(row.name for row in rows)


# The flags of one run, in the order in which --help shows them.
GROUPS = {group: _names(rows) for group, rows in RUN_FLAGS.items()}
CONVEX = "logistic-regression"
CONVEX_FLAGS = _names(CONVEX_ROWS)


def settings_of_run() -> dict[str, Any]:
    """The flags of one run by name, and whether Keras can be used as it is set up.

    Raises:
        UsageError: it cannot.
    """
    legacy = os.environ.get("TF_USE_LEGACY_KERAS", "")
    if legacy.lower() in ("1", "true"):
        raise UsageError(
            f"Keras 3 is needed. Received: TF_USE_LEGACY_KERAS={legacy}. Unset it."
        )
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise UsageError(
            "Keras's TensorFlow backend is needed. Received: "
            f"KERAS_BACKEND={backend}. Unset it."
        )
    # TensorFlow's information about its build is no news to a user of this program.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    settings = {
        name: FLAGS[name].value for group in GROUPS.values() for name in group.split()
    }
    from tem_studies.workloads.workload_settings import DPS_NETWORKS

    if not FLAGS["target_sparsity"].present and settings["arch"] not in DPS_NETWORKS:
        settings["target_sparsity"] = 0.0
    if settings["logdir"] is None:
        settings["logdir"] = os.path.join("runs", time.strftime("%Y%m%d-%H%M%S"))
    return settings


def configure() -> Configuration:
    """Makes one checked configuration from the flags.

    Raises:
        UsageError: a flag is wrong, or Keras cannot be used as it is set up.
    """
    settings = settings_of_run()
    if not FLAGS["goal_error"].present:
        settings["goal_error"] = None
    try:
        from tem_studies.workloads.configuration import Configuration

        return Configuration(**settings)
    except (ValueError, ImportError) as error:
        raise UsageError(error) from error


def is_study() -> bool:
    """Whether the command is about many trials, not one run.

    Raises:
        UsageError: it is one run, with a flag that only a study has.
    """
    present = {row.name for row in STUDY_FLAGS if FLAGS[row.name].present}
    several = [n for n in SEVERAL_MAKE_STUDY if isinstance(FLAGS[n].value, tuple)]
    if several or present & {*MAKES_STUDY, "report"}:
        return True
    for name in sorted(present):
        raise UsageError(
            f"`{name}` has an effect in a study alone. Leave --{name} out or pass "
            f"one of --{', --'.join(MAKES_STUDY)}."
        )
    return False


def run_study() -> int:
    """Runs a study, or makes its report again; returns the exit code.

    Raises:
        UsageError: flags, data and directory do not fit together.
    """
    run = settings_of_run()
    settings = {row.name: FLAGS[row.name].value for row in STUDY_FLAGS}
    try:
        missing_packages.require("matplotlib", "scipy", "tensorboard")
        from tem_studies.data_parallelism import command_line

        if settings["report"] is not None:
            paths = settings["report"]
            paths = paths if isinstance(paths, tuple) else (paths,)
            text = command_line.make_report(paths, FLAGS.logdir)
        else:
            text = command_line.run(command_line.configure(run, settings))
    except (ValueError, OSError, ImportError) as error:
        raise UsageError(error) from error
    print(text)
    return 0


def run_comparison() -> int:
    """Runs a comparison, or makes its report again; returns the exit code.

    Raises:
        UsageError: flags, data and directory do not fit together.
    """
    run = settings_of_run()
    names = [*_names(COMPARISON_FLAGS).split(), *SHARED_WITH_STUDY]
    settings = {name: FLAGS[name].value for name in names}
    given = {name for name in FLAGS if FLAGS[name].present}
    try:
        missing_packages.require("matplotlib", "scipy", "tensorboard")
        from tem_studies.comparison import command_line

        comparison = command_line.configure(run, settings, given)
        text = command_line.carry_out(*comparison)
    except (ValueError, OSError, ImportError) as error:
        raise UsageError(error) from error
    print(text)
    return 0


def train(configuration: Configuration) -> int:
    """Runs one training; returns the exit code.

    Raises:
        UsageError: data, cluster and configuration do not fit together.
    """
    from tem_studies.workloads import experiment

    try:
        missing_packages.require("tensorboard")
        run = experiment.set_up(configuration)
    except (ValueError, OSError, ImportError) as error:
        raise UsageError(error) from error
    result = run.run()
    if run.directory.writes:
        print(_report(result, configuration.logdir))
    return 1 if result["status"] == "diverged" else 0


def run_convex() -> int:
    """Runs a study of logistic regression; returns the exit code.

    Raises:
        UsageError: flags, data and settings do not fit together.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    settings = {name: FLAGS[name].value for name in FLAGS if FLAGS[name].present}
    settings.setdefault("logdir", os.path.join("runs", time.strftime("%Y%m%d-%H%M%S")))
    try:
        from tem_studies.convex import command_line, study

        result = study.run(command_line.configure(settings, CONVEX_FLAGS.split()))
    except (ValueError, OSError, ImportError, MemoryError) as error:
        raise UsageError(error) from error
    for label in result["diverged"]:
        print(f"diverged: {label}; it is in no figure. Pass a smaller --step_size.")
    print(f"figures and tables: {settings['logdir']}")
    return 1 if result["diverged"] else 0


def _report(result: dict[str, Any], logdir: str) -> str:
    lines = [f"{result['status']} after {result['steps']} steps"]
    if result["test"]:
        _, *metrics = result["test"].items()  # The first is the loss.
        for name, value in metrics:
            lines.append(f"{'test ' + name.replace('_', ' '):<15} {value:.4f}")
    communication = result["communication"]
    if communication:
        sent = communication["payload_bytes"] + communication["padded_bytes"]
        dense = communication["dense_bytes"]
        lines += [
            f"density         {100 * communication['density']:.3g} %",
            f"bytes sent      {sent:,} ({100 * sent / dense:.3g} % of {dense:,} dense)",
        ]
    return "\n".join(
        [
            *lines,
            f"result          {os.path.join(logdir, 'result.json')}",
            f"TensorBoard     tensorboard --logdir {logdir}",
        ]
    )


def _help() -> str:
    """What --help prints: the flags in groups, with unit and default."""
    lines = [str(__doc__)]
    others = (
        ("Studies", _names(STUDY_FLAGS)),
        ("Comparisons", _names(COMPARISON_FLAGS)),
        (f"With --arch {CONVEX}", CONVEX_FLAGS),
    )
    for group, names in [*GROUPS.items(), *others]:
        lines.append(f"{group}:")
        for name in names.split():
            flag = FLAGS[name]
            default = "" if flag.default is None else f" Default: {flag.default}."
            kind = "text" if flag.flag_type() == "string" else flag.flag_type()
            form = "[no]" + name if flag.boolean else f"{name} {kind}"
            lines += [
                f"  --{form}",
                textwrap.fill(flag.help + default, 86, **_INDENTS),
            ]
        lines.append("")
    return "\n".join(lines)


_INDENTS = {
    "initial_indent": " " * 6,
    "subsequent_indent": " " * 6,
    "break_on_hyphens": False,  # Names of values have them.
}


def parse(argv: list[str]) -> None:
    """Reads the command line into FLAGS.

    Raises:
        UsageError: a flag is unknown or has a value of the wrong type.
    """
    if {"--help", "-help", "-h", "--helpshort"} & set(argv[1:]):
        print(_help())
        sys.exit(0)
    try:
        rest = FLAGS(_join_several(argv))[1:]
    except flags.IllegalFlagValueError as error:
        # absl puts "flag --name=value: " before our parser's words.
        words = str(error).partition(": ")[2]
        raise UsageError(words if words.startswith("`") else error) from error
    except (flags.Error, ValueError) as error:  # ValueError: of --noNAME=VALUE.
        raise UsageError(f"{error}. See python main.py --help.") from error
    if rest:
        raise UsageError(
            f"Every argument must follow a flag. Received: {' '.join(rest)}. "
            "See python main.py --help."
        )


def _join_several(argv: list[str]) -> list[str]:
    """Makes `--name a b` one argument, as argparse's nargs="+" reads it."""
    joined: list[str] = []
    takes = False
    for argument in argv:
        if argument.startswith("-"):
            name = argument.lstrip("-")
            takes = name in FLAGS and isinstance(FLAGS[name].parser, _Several)
            joined.append(argument)
        elif takes and not joined[-1].startswith("-"):
            joined[-1] += _BETWEEN + argument
        else:
            joined.append(argument)
    return joined


def main(argv: list[str] | None = None) -> int:
    """The whole program; returns the exit code.

    Args:
        argv: The program's name and arguments. Default: those of this process.
    """
    argv = sys.argv if argv is None else argv
    try:
        parse(argv)
        if FLAGS.arch == CONVEX:
            return run_convex()
        for name in CONVEX_FLAGS.split():
            if FLAGS[name].present:
                raise UsageError(
                    f"`{name}` has no effect with `arch` {FLAGS.arch}. Leave --{name} "
                    f"out or pass --arch {CONVEX}."
                )
        if words := misplaced({name for name in FLAGS if FLAGS[name].present}):
            raise UsageError(words)
        if FLAGS.compare is not None:
            return run_comparison()
        return run_study() if is_study() else train(configure())
    except (UsageError, ModuleNotFoundError) as error:
        print(f"main.py: error: {missing_packages.in_words(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("main.py: interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells have it
