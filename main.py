r"""Trains an image classifier with compressed gradients, pruned at initialisation.

Examples:
  python main.py --datasource digits --train_iterations 500
  python main.py --datasource cifar-10 --arch resnet-8 --target_sparsity 0.9
  python main.py --datasource fashion-mnist --path_data DATA \
      --compressor hard_threshold --threshold 0.01 --workers 2
  python launch/local.py --workers 4 -- python main.py ...
"""

from __future__ import annotations

import os
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

from absl import flags

if TYPE_CHECKING:
    from tem_tf.workloads.configuration import Configuration

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


def _string(name: str, default: str | None, text: str) -> None:
    flags.DEFINE_string(name, default, text)


def _integer(name: str, default: int, text: str) -> None:
    flags.DEFINE(_Number(name, int), name, default, text)


def _float(name: str, default: float | None, text: str) -> None:
    flags.DEFINE(_Number(name, float), name, default, text)


# Names, meanings and defaults of the DPS study's flags are its authors' (arXiv
# 2003.11316). A flag's help says its unit; its default is added by `_help`.
_string("datasource", "mnist", "Images: digits, mnist, fashion-mnist or cifar-10.")
_string(
    "path_data",
    None,
    "Directory that holds MNIST/, Fashion-MNIST/ or cifar-10-batches-py/. Without it, "
    "or if the folder is not in it, the data comes from tensorflow-datasets.",
)
_string("arch", "simple-cnn", "Network: simple-cnn or resnet-8.")
_float(
    "target_sparsity",
    0.9,
    "Share of the network's entries, in [0, 1), pruned before training.",
)
_integer(
    "batch_size", 100, "Examples per step over all workers; divisible by their number."
)
_integer("train_iterations", 10_000, "Steps of training.")
_string("optimizer", "sgd", "sgd, momentum, nesterov or adam.")
_float("learning_rate", 0.1, "Learning rate of the first step.")
_string(
    "decay_type",
    "constant",
    "Learning rate over time: constant, or linear down to end_learning_rate_factor "
    "times its start over decay_steps steps.",
)
_integer("decay_steps", 1000, "Steps of the linear decay; the rate is flat after them.")
_float(
    "end_learning_rate_factor",
    0.01,
    "Last learning rate of the linear decay, as a share of the first, in [0, 1].",
)
_float("momentum", 0.9, "Momentum, in [0, 1), of momentum and nesterov.")
_integer("check_interval", 100, "Steps between two validations that are logged.")
_integer("save_interval", 1000, "Steps between two checkpoints of the weights.")
_integer(
    "check_interval_arrival", 100, "Steps between two tests of --goal_error, if given."
)
_float(
    "goal_error",
    0.01,
    "Error on the validation split, in [0, 1], that ends the run once reached. Has an "
    "effect only if it is given.",
)
_string(
    "compressor",
    "none",
    "What each worker sends of its gradient: none (everything), hard_threshold (the "
    "entries of at least --threshold), topk (the largest, --density of them) or "
    "random_k (random ones, --density of them).",
)
_float(
    "threshold",
    None,
    "Of hard_threshold: least magnitude that is sent, in units of one worker's own "
    "mean-loss gradient, whatever the number of workers. Higher: fewer are sent.",
)
_float("density", None, "Of topk and random_k: share of entries sent, in (0, 1].")
_string(
    "topk_scope",
    None,
    "Of topk: layer (the share of every tensor) or model (of all together). Without "
    "it: layer.",
)
flags.DEFINE_boolean(
    "error_feedback",
    True,
    "Whether a worker adds what it did not send to its next gradient.",
)
_integer("dense_below", 0, "Tensors with fewer entries than this are sent whole.")
_integer("warmup_steps", 0, "Number of first steps in which everything is sent.")
_float(
    "local_clipnorm",
    None,
    "Largest norm of a worker's own gradient; longer ones are scaled down to it before "
    "compression. Without it: no clipping.",
)
_string("value_dtype", "float32", "How sent values travel: float32.")
_integer(
    "workers",
    1,
    "Virtual workers in this process. For real processes see launch/local.py.",
)
_integer("threads", 0, "Processor threads for one operation; 0: TensorFlow's choice.")
_string(
    "logdir",
    None,
    "Directory for result.json, checkpoints and TensorBoard. What an earlier run left "
    "there is replaced. Without it: runs/ and the time of day.",
)
_integer("seed", 0, "Of initial weights and the order of examples; at least 0.")

# The order in which --help shows them.
GROUPS = {
    "Data and network": "datasource path_data arch target_sparsity",
    "Training": "batch_size train_iterations optimizer learning_rate decay_type "
    "decay_steps end_learning_rate_factor momentum seed",
    "Checks and results": "check_interval save_interval goal_error "
    "check_interval_arrival logdir",
    "Communication": "compressor threshold density topk_scope error_feedback "
    "dense_below warmup_steps local_clipnorm value_dtype",
    "Workers": "workers threads",
}


def configure() -> Configuration:
    """Makes one checked configuration from the flags.

    Raises:
        UsageError: a flag is wrong, or Keras cannot be used as it is set up.
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
    try:
        from tem_tf.workloads.configuration import Configuration
    except ImportError as error:
        raise UsageError(error) from error
    settings = {
        name: FLAGS[name].value for group in GROUPS.values() for name in group.split()
    }
    if not FLAGS["goal_error"].present:
        settings["goal_error"] = None
    if settings["logdir"] is None:
        settings["logdir"] = os.path.join("runs", time.strftime("%Y%m%d-%H%M%S"))
    try:
        return Configuration(**settings)
    except ValueError as error:
        raise UsageError(error) from error


def train(configuration: Configuration) -> int:
    """Runs one training; returns the exit code.

    Raises:
        UsageError: data, cluster and configuration do not fit together.
    """
    from tem_tf.workloads import experiment

    try:
        run = experiment.set_up(configuration)
    except (ValueError, OSError, ImportError) as error:
        raise UsageError(error) from error
    result = run.run()
    if run.directory.writes:
        print(_report(result, configuration.logdir))
    return 1 if result["status"] == "diverged" else 0


def _report(result: dict[str, Any], logdir: str) -> str:
    lines = [f"{result['status']} after {result['steps']} steps"]
    if result["test"]:
        lines.append(f"test accuracy   {result['test']['accuracy']:.4f}")
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
    for group, names in GROUPS.items():
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


_INDENTS = {"initial_indent": " " * 6, "subsequent_indent": " " * 6}


def parse(argv: list[str]) -> None:
    """Reads the command line into FLAGS.

    Raises:
        UsageError: a flag is unknown or has a value of the wrong type.
    """
    if {"--help", "-help", "-h", "--helpshort"} & set(argv[1:]):
        print(_help())
        sys.exit(0)
    try:
        rest = FLAGS(argv)[1:]
    except flags.IllegalFlagValueError as error:
        # absl puts "flag --name=value: " before our parser's words.
        words = str(error).partition(": ")[2]
        raise UsageError(words if words.startswith("`") else error) from error
    except flags.Error as error:
        raise UsageError(f"{error}. See python main.py --help.") from error
    if rest:
        raise UsageError(
            f"Every argument must follow a flag. Received: {' '.join(rest)}. "
            "See python main.py --help."
        )


def main(argv: list[str]) -> int:
    """The whole program; returns the exit code."""
    try:
        parse(argv)
        return train(configure())
    except UsageError as error:
        print(f"main.py: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("main.py: interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells have it


if __name__ == "__main__":
    sys.exit(main(sys.argv))
