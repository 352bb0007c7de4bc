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
  python main.py predict --datasource digits --workers 4 --link_mbit 100
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from absl import flags

from tem_studies import program
from tem_studies.comparison.flags import COMPARISON_FLAGS, SHARED_WITH_STUDY, misplaced
from tem_studies.convex.flags import CONVEX_FLAGS as CONVEX_ROWS
from tem_studies.data_parallelism import flags as study_flags
from tem_studies.data_parallelism.flags import STUDY_FLAGS
from tem_studies.flag_row import FlagRow
from tem_studies.help_text import help_text
from tem_studies.refusal import Refusal
from tem_studies.unused_flags import OF_RUN, require_used
from tem_studies.workloads.flags import RUN_FLAGS
from tem_studies.workloads.forecast_flags import (
    FORECAST_FLAGS,
    check_figure,
    link_of,
    require_of_forecast,
)
from tem_studies.workloads.resume_flags import resume_interval
from tem_studies.workloads.stop_signals import leaving_at_once

if TYPE_CHECKING:
    from tem_studies.workloads.configuration import Configuration

FLAGS = flags.FLAGS


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


PREDICT = "predict"  # The first argument of a forecast.

for _rows in (
    *(*RUN_FLAGS.values(), STUDY_FLAGS, COMPARISON_FLAGS, CONVEX_ROWS, FORECAST_FLAGS),
):
    for _row in _rows:
        _define(_row)


def _names(rows: Iterable[FlagRow]) -> str:
    return " ".join(row.name for row in rows)


# The settings of one run, in the order in which --help shows them.
GROUPS = {
    group: _names(row for row in rows if row.is_setting)
    for group, rows in RUN_FLAGS.items()
}
CONVEX = "logistic-regression"
CONVEX_FLAGS = _names(CONVEX_ROWS)


def _given() -> set[str]:
    """Names of the flags on the command line."""
    return {name for name in FLAGS if FLAGS[name].present}


def _values(names: Iterable[str]) -> dict[str, Any]:
    return {name: FLAGS[name].value for name in names}


def flags_of_run() -> dict[str, Any]:
    """The flags of one run by name; without `logdir` where none was chosen."""
    settings = _values(name for group in GROUPS.values() for name in group.split())
    if settings["logdir"] is None:
        del settings["logdir"]
    return settings


def settings_of_run() -> dict[str, Any]:
    """The same, with what the network usually has where no flag was given.

    Raises:
        Refusal: what the environment says of other workers is wrong.
    """
    from tem_studies.workloads.environment import count_workers
    from tem_studies.workloads.workload_settings import with_usual

    settings = flags_of_run()
    return with_usual(settings, _given(), count_workers(settings["workers"]))


def configure() -> Configuration:
    """Makes one checked configuration from the flags.

    Raises:
        Refusal: a flag is wrong.
    """
    from tem_studies.workloads.configuration import Configuration

    settings = settings_of_run()
    if not FLAGS["goal_error"].present:
        settings["goal_error"] = None
    return Configuration(**settings)


def train() -> int:
    """Runs one training; returns the exit code.

    Raises:
        Refusal: flags, data and cluster do not fit together.
    """
    interval = resume_interval(
        _given(), FLAGS.resume, FLAGS.resume_interval, FLAGS.overwrite
    )
    with leaving_at_once() if interval else nullcontext():
        return _train(interval)


def _train(interval: int | None) -> int:
    from tem_studies.workloads import command_line as workloads
    from tem_studies.workloads.environment import Start

    configuration = configure()
    settings = configuration.as_dict() | {"logdir": FLAGS.logdir}
    require_used(_given(), settings, OF_RUN)
    if interval and (result := workloads.finished(configuration)):
        print(
            f"this run has finished: there is nothing to do\n{workloads.report(result)}"
        )
        return 1 if result["status"] == "diverged" else 0
    start = Start(FLAGS.start_seconds, FLAGS.refuse_public)
    run = workloads.prepare(
        configuration, FLAGS.logdir, FLAGS.overwrite, start, interval
    )
    result = run.run(keeps_interrupted=True)
    if run.directory.writes:
        print(workloads.report(result))
    return 1 if result["status"] == "diverged" else 0


def run_study() -> int:
    """Runs a study, or does with its files what is asked; returns the exit code.

    Raises:
        Refusal: flags, data and directory do not fit together.
    """
    from tem_studies.data_parallelism import command_line as studies

    settings = _values(row.name for row in STUDY_FLAGS)
    text = studies.on_files(settings, FLAGS.logdir)
    if text is None:
        planned = studies.configure(settings_of_run(), settings, _given())
        text = studies.run(planned)
    print(text)
    return 0


def run_comparison() -> int:
    """Runs a comparison, or makes its report again; returns the exit code.

    Raises:
        Refusal: flags, data and directory do not fit together.
    """
    from tem_studies.comparison import command_line as comparisons

    settings = _values([*_names(COMPARISON_FLAGS).split(), *SHARED_WITH_STUDY])
    planned = comparisons.configure(flags_of_run(), settings, _given())
    text = comparisons.carry_out(*planned)
    print(text)
    return 0


def run_convex() -> int:
    """Runs a study of logistic regression; returns the exit code.

    Raises:
        Refusal: flags, data and settings do not fit together.
    """
    from tem_studies.convex import command_line as convex

    configuration = convex.configure(_values(_given()), CONVEX_FLAGS.split())
    text, diverged = convex.run(configuration, FLAGS.logdir)
    print(text)
    return 1 if diverged else 0


def predict() -> int:
    """Says what a step of a run would take; returns the exit code.

    Raises:
        Refusal: flags, data and cluster do not fit together.
    """
    from tem_studies.quiet_start import start_tensorflow
    from tem_studies.workloads import command_line as workloads
    from tem_studies.workloads.environment import Start, count_workers

    require_of_forecast(_given())
    check_figure(FLAGS.figure)
    configuration = configure()
    processes = count_workers(1)
    link = link_of(FLAGS.link_mbit, FLAGS.link_ms, configuration.workers, processes)
    source = workloads.check(configuration)
    start_tensorflow()
    from tem_studies.workloads import forecast

    start = Start(FLAGS.start_seconds, FLAGS.refuse_public)
    table = forecast.run(configuration, source, start, link, FLAGS.figure)
    if table:
        print(table)
    return 0


def _help(path: str) -> str:
    examples = str(__doc__)
    if program.name(path) != "main.py":
        examples = examples.replace("python launch/local.py", "tem-tf-run")
        examples = examples.replace("python main.py", program.command(path))
    groups = RUN_FLAGS | {
        "Studies": STUDY_FLAGS,
        "Comparisons": COMPARISON_FLAGS,
        f"With --arch {CONVEX}": CONVEX_ROWS,
        f"After the word {PREDICT}, which makes a forecast of a run": FORECAST_FLAGS,
    }
    return help_text(examples, groups)


def parse(argv: list[str]) -> None:
    """Reads the command line into FLAGS.

    Raises:
        Refusal: a flag is unknown or has a value of the wrong type.
    """
    if {"--help", "-help", "-h", "--helpshort"} & set(argv[1:]):
        print(_help(argv[0]), flush=True)
        sys.exit(0)
    see = f"See {program.command(argv[0])} --help."
    try:
        rest = FLAGS(_join_several(argv))[1:]
    except flags.IllegalFlagValueError as error:
        # absl puts "flag --name=value: " before our parser's words.
        words = str(error).partition(": ")[2]
        raise Refusal(words if words.startswith("`") else str(error)) from error
    except (flags.Error, ValueError) as error:  # ValueError: of --noNAME=VALUE.
        raise Refusal(f"{error}. {see}") from error
    if rest:
        raise Refusal(
            f"Every argument must follow a flag. Received: {' '.join(rest)}. {see}"
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
        try:
            predicts = argv[1:2] == [PREDICT]
            parse(argv[:1] + argv[1 + predicts :])
            code = predict() if predicts else _carry_out()
        except Refusal as refusal:
            print(f"{program.name(argv[0])}: error: {refusal}", file=sys.stderr)
            code = 1
        sys.stdout.flush()  # Here, where a closed pipe is no traceback.
        return code
    except BrokenPipeError:
        program.close_output()
        return program.PIPE_CLOSED
    except KeyboardInterrupt:
        print(f"{program.name(argv[0])}: interrupted", file=sys.stderr)
        return program.INTERRUPTED


def _carry_out() -> int:
    """Does what FLAGS ask for; returns the exit code.

    Raises:
        Refusal: a flag has no effect, or is wrong.
    """
    given = _given()
    for row in FORECAST_FLAGS:
        if row.name in given:
            raise Refusal(
                f"`{row.name}` has an effect after the word {PREDICT} alone. Leave "
                f"--{row.name} out."
            )
    if FLAGS.arch == CONVEX:
        return run_convex()
    for name in CONVEX_FLAGS.split():
        if name in given:
            raise Refusal(
                f"`{name}` has no effect with `arch` {FLAGS.arch}. Leave --{name} "
                f"out or pass --arch {CONVEX}."
            )
    if words := misplaced(given):
        raise Refusal(words)
    if FLAGS.compare is not None:
        return run_comparison()
    several = {name for name in given if isinstance(FLAGS[name].value, tuple)}
    if words := study_flags.misplaced(given, several):
        raise Refusal(words)
    return run_study() if study_flags.makers(given, several) else train()


if __name__ == "__main__":
    sys.exit(main())
