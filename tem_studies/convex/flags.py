"""The flags of logistic regression, the convex laboratory."""

from __future__ import annotations

from tem_studies.flag_row import FlagRow

CONVEX_FLAGS = (
    FlagRow(
        "methods",
        str,
        "ec-sgd",
        "Between commas: ec-sgd, ec-gd, ec-gd-star, ec-sgd-diana, ec-gd-diana, "
        "ec-lsvrg, ec-lsvrg-diana, ec-local-sgd (its --local_steps: 10 if not given), "
        "ef21-sgdm. Data sources are gisette, madelon, "
        "breast-cancer, fashion-mnist, made-up or the path of a LIBSVM file. Unless "
        "given, it is breast-cancer, 20 workers, 3000 iterations, measured every 10 "
        "(check_interval). What LOGDIR holds already is not run again.",
    ),
    FlagRow(
        "compressors",
        str,
        None,
        "Between commas: those of --compressor, module:Class too, and Top-k with the "
        "volume of hard_threshold: topk_equal, topk_replay, topk_warmup. Thresholds "
        "are in units of the step size times a gradient. Without it: --compressor.",
    ),
    FlagRow("k", int, None, "Of topk: entries sent, before --density."),
    FlagRow(
        "sweep",
        str,
        None,
        "threshold=… or density=…, values between commas; may be given twice. Draws "
        "the bits that each compressor needs to reach --goal_suboptimality.",
        may_repeat=True,
    ),
    FlagRow(
        "goal_suboptimality",
        float,
        1e-3,
        "Goal of --sweep, as a share of the first f - f*.",
    ),
    FlagRow(
        "split", str, "shuffled", "Examples of a worker: shuffled, dirichlet or sorted."
    ),
    FlagRow(
        "dirichlet_alpha",
        float,
        1.0,
        "Of --split dirichlet. Lower: workers differ more.",
    ),
    FlagRow("step_size", float, 1.0, "Step size in units of 1 / (L + l2)."),
    FlagRow(
        "start_offset",
        float,
        None,
        "Start at the minimum with this added to each coordinate. Without it: at 0.",
    ),
    FlagRow("seeds", int, 1, "Number of seeds; the first is --seed."),
    FlagRow("classes", str, "0,6", "Of fashion-mnist: the two labels."),
    FlagRow("made_up_size", str, "6000,5000", "Of made-up: examples, features."),
)
