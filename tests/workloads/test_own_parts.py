"""Users' own compressors and networks: found, tried, and refused in one line."""

import keras
import numpy as np
import pytest

import tem_tf
from tem_studies.refusal import Refusal
from tem_studies.workloads import architectures, own_parts
from tem_studies.workloads.compression import make_compressor
from tem_studies.workloads.configuration import Configuration
from tests.own_modules import mine, write_module  # noqa: F401

pytestmark = pytest.mark.usefixtures("mine")


def own(compressor, *arguments):
    return Configuration(compressor=compressor, compressor_arguments=arguments or None)


def test_a_compressor_is_made_with_its_arguments():
    made = make_compressor(own("mine:AboveTheMean", "factor=2"))
    assert isinstance(made, tem_tf.Sparsifier)
    assert made.factor == 2
    assert make_compressor(own("mine:AboveTheMean")).factor == 3.0


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("mine:Below", (), r"the module mine \(.*mine.py\) has no Below"),
        ("mine:number", (), "class derived from tem_tf.Compressor .*, which is 3"),
        ("mine:network", (), "class derived from .*, which is <function network"),
        ("keras:Model", (), "derived from tem_tf.Compressor .* Received: compressor="),
        (
            "mine:AboveTheMean",
            ("k=2",),
            "mine:AboveTheMean cannot be used with `compressor_arguments` k=2: "
            "TypeError: .*unexpected keyword argument 'k'",
        ),
        (
            "mine:AboveTheMean",
            ("factor=many",),
            r"`compressor_arguments` factor='many': .*\(.*mine.py, line 16\)",
        ),
        ("mine:Strict", (), "none: ValueError: `sizes` must not be empty .*mine.py, l"),
        ("mine:Strict", ("sizes=[1]",), "Strict must implement `compress`"),
        ("mine.below:Half", (), "module mine.below cannot be imported: ModuleNotFound"),
    ],
)
def test_a_compressor_that_cannot_be_used_is_one_line(name, arguments, words):
    with pytest.raises(Refusal, match=words) as refused:
        own_parts.check(own(name, *arguments))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowher"),
        ("def (:", r"cannot be imported: SyntaxError: .* \(mine_too.py, line 1\)"),
        ("\n1 / 0", r"ZeroDivisionError: division by zero \(.*mine_too.py, line 2\)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(tmp_path, text, words):
    write_module(tmp_path, "mine_too", text)
    with pytest.raises(Refusal, match=words):
        own_parts.check(own("mine_too:Half"))


@pytest.mark.parametrize("name", ["network", "unbuilt", "normalised"])
def test_a_network_is_made_of_shape_classes_and_seed(name):
    make = lambda seed: architectures.build(f"mine:{name}", (4, 4, 1), seed, 3)  # noqa: E731
    model = make(5)
    assert isinstance(model, keras.Model)
    assert model(np.zeros((2, 4, 4, 1), np.float32)).shape == (2, 3)
    # Its function looks at no seed, and equal seeds make equal weights all the same.
    for a, b in zip(model.get_weights(), make(5).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (model.get_weights()[0] != make(6).get_weights()[0]).any()


def test_a_network_has_the_policy_of_the_run():
    model = architectures.build("mine:network", (6,), 0, 3, "mixed_bfloat16")
    assert model.layers[-1].compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mine:number", "must be a function .*, which is 3"),
        ("mine:other", "has no other"),
        ("mine:softmax", "must return logits, of which the loss takes the softmax"),
        ("mine:one_too_many", r"of the shape \(batch, 3\), .* Received: \(None, 4\)"),
        ("mine:weightless", r"logits of the shape \(batch, 3\)"),
        ("mine:no_network", "must return a keras.Model. Received: <class 'tuple'>"),
        ("mine:two_arguments", "made no network of input_shape=.* TypeError"),
    ],
)
def test_a_network_that_cannot_be_used_is_one_line(name, words):
    with pytest.raises(Refusal, match=words) as refused:
        architectures.build(name, (4, 4, 1), 0, 3)
    assert "\n" not in str(refused.value)


def test_networks_of_ours_take_images_alone():
    with pytest.raises(Refusal, match=r"takes images of a height.*shape \(6,\)"):
        architectures.build("simple-cnn", (6,), 0, 3)
