"""Compressors and memories from settings, and the settings that are refused."""

import pytest

import tem_tf
from tem_studies.refusal import Refusal
from tem_studies.workloads.compression import make_compressor, make_memory
from tem_studies.workloads.configuration import Configuration

ACCORDION = {"compressor": "accordion", "low_density": 0.1, "high_density": 0.4}
DGC = {"compressor": "dgc", "density": 0.01}
TOPK = {"compressor": "topk", "density": 0.01}


@pytest.mark.parametrize(
    ("settings", "compressor"),
    [
        (ACCORDION, tem_tf.Accordion(0.1, 0.4)),
        ({**ACCORDION, "accordion_interval": 7}, tem_tf.Accordion(0.1, 0.4, 7)),
        (
            {"compressor": "adaptive_threshold", "density": 0.01},
            tem_tf.AdaptiveThreshold(0.01, steps=10_000),
        ),
        (DGC, tem_tf.TopK(0.01)),
        (
            {**TOPK, "density_ramp_steps": 50, "topk_scope": "model"},
            tem_tf.TopK(tem_tf.Ramp(0.25, 0.01, 50), scope="model"),
        ),
        (
            {**TOPK, "density": 1 / 64, "topk_scope": "block"},
            tem_tf.TopK(per_block=64, block=4096),
        ),
        ({**TOPK, "density": 1e-6, "topk_scope": "block"}, tem_tf.TopK(per_block=1)),
        (
            {"compressor": "random_k", "density": 0.5, "density_ramp_steps": 5},
            tem_tf.RandomK(tem_tf.Ramp(0.5, 0.5, 5)),
        ),
    ],
)
def test_compressor_of_settings(settings, compressor):
    assert make_compressor(Configuration(**settings)) == compressor


def test_accordion_learns_of_epochs_and_of_decays():
    settings = {**ACCORDION, "decay_type": "step", "decay_epochs": (15, 25)}
    configuration = Configuration(**settings)
    expected = tem_tf.Accordion(0.1, 0.4, 30, learning_rate_decays=(45, 75))
    assert make_compressor(configuration, steps_per_epoch=3) == expected


@pytest.mark.parametrize(
    ("settings", "memory"),
    [
        (TOPK, "auto"),
        ({**TOPK, "error_feedback": False}, None),
        ({**TOPK, "memory": "error_feedback"}, tem_tf.ErrorFeedback()),
        (
            {**TOPK, "memory": "decaying_error_feedback", "memory_decay": 0.5},
            tem_tf.DecayingErrorFeedback(0.5),
        ),
        ({**TOPK, "memory": "ef21"}, tem_tf.EF21()),
        (
            {**TOPK, "memory": "ef21_sgdm", "memory_momentum": 0.2},
            tem_tf.EF21SGDM(0.2),
        ),
        ({**TOPK, "memory": "dgc"}, tem_tf.MomentumCorrection()),
        (DGC, tem_tf.MomentumCorrection()),
        ({**DGC, "memory_momentum": 0.5}, tem_tf.MomentumCorrection(0.5)),
    ],
)
def test_memory_of_settings(settings, memory):
    assert make_memory(Configuration(**settings)) == memory


def test_counts_are_read_from_a_file(tmp_path):
    path = tmp_path / "counts.txt"
    path.write_text("5\n0\n12\n")
    settings = {"compressor": "topk_schedule", "counts": str(path)}
    expected = tem_tf.TopKSchedule([5, 0, 12])
    assert make_compressor(Configuration(**settings)) == expected
    path.write_text("5\n1.5\n")
    with pytest.raises(Refusal, match=r"`counts` must be a file.*'1\.5' in line 2"):
        make_compressor(Configuration(**settings))
    path.write_text(f"5\n{2**31}\n")
    with pytest.raises(Refusal, match=r"`counts` must be .*'2147483648' in line 2"):
        make_compressor(Configuration(**settings))
    path.write_text("")
    with pytest.raises(Refusal, match="`counts` must be .*, which is empty"):
        make_compressor(Configuration(**settings))
    path.write_bytes(b"\xff")
    words = f"`counts` must be a file .* Received: counts='{path}' .*can't decode byte"
    with pytest.raises(Refusal, match=words):
        make_compressor(Configuration(**settings))
    path.unlink()
    words = f"`counts` must be a file .* Received: counts='{path}' .*No such file"
    with pytest.raises(Refusal, match=words):
        make_compressor(Configuration(**settings))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"compressor": "accordion", "low_density": 0.1}, "needs `high_density`"),
        ({"compressor": "topk_schedule"}, "`compressor` topk_schedule needs `counts`"),
        ({**ACCORDION, "low_density": 10}, r"`low_density` must be a number in \(0, 1"),
        ({**ACCORDION, "high_density": 0.01}, "`high_density` must be at least `low_"),
        ({**ACCORDION, "accordion_interval": 0}, "`accordion_interval` must be an"),
        ({**TOPK, "low_density": 0.1}, "pass --compressor accordion"),
        ({**TOPK, "density_ramp_steps": 0.5}, "`density_ramp_steps` must be an int"),
        ({**TOPK, "memory": "none"}, "`memory` must be one of error_feedback"),
        (
            {**TOPK, "memory": "ef21", "error_feedback": False},
            "`memory` cannot be kept without `error_feedback`",
        ),
        ({**TOPK, "memory": "decaying_error_feedback"}, "needs `memory_decay`"),
        ({**TOPK, "memory_decay": 0.5}, "pass --memory decaying_error_feedback"),
        (
            {**TOPK, "memory": "decaying_error_feedback", "memory_decay": 2},
            r"`memory_decay` must be a number in \(0, 1\]",
        ),
        (
            {**DGC, "memory_momentum": 1},
            r"`memory_momentum` must be a number in \(0, 1\)",
        ),
        ({"memory": "ef21"}, "`memory` has no effect with `compressor` none"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, says):
    with pytest.raises(Refusal, match=says):
        Configuration(**settings)
