"""Names and arguments of what users bring, before anything of it is imported."""

import sys

import pytest

from tem_studies.refusal import Refusal
from tem_studies.workloads import own_names
from tem_studies.workloads.configuration import Configuration
from tests.own_modules import mine  # noqa: F401


@pytest.mark.parametrize(
    ("texts", "arguments"),
    [
        ("factor=2.5", {"factor": 2.5}),
        (("k=3", "name=mean"), {"k": 3, "name": "mean"}),
        (("on=true", "off=null", 'word="3"'), {"on": True, "off": None, "word": "3"}),
        ("sizes=[1, [2, 3]]", {"sizes": (1, (2, 3))}),
        ("path=a=b", {"path": "a=b"}),
        ("none=", {"none": ""}),
        ("bound=Infinity", {"bound": "Infinity"}),
        ({"sizes": [1, 2]}, {"sizes": (1, 2)}),
    ],
)
def test_values_are_json_or_texts(texts, arguments):
    assert own_names.read_arguments("arguments", texts) == arguments


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ("factor", "`arguments` must be key=value, with blanks between several. Rec"),
        ("2k=3", "must be key=value, with blanks between several. Received: '2k=3'"),
        ("Half.k=3", "must be key=value"),
        (("k=1", "k=2"), "`arguments` must have k once"),
        ('k={"a": 1}', "null or lists of them. Received: k={'a': 1}"),
        ("k=1e999", "must be numbers below 1e18, .* Received: k=inf"),
        ("k=1000000000000000000", "must be numbers below 1e18"),
    ],
)
def test_other_arguments_are_refused(texts, words):
    with pytest.raises(Refusal, match=words):
        own_names.read_arguments("arguments", texts)


def test_a_class_may_have_arguments_of_its_own():
    texts = ("k=1", "Half.k=2", "Other.n=3")
    arguments = own_names.read_arguments("arguments", texts, of_classes=True)
    assert own_names.arguments_for("mine:Half", arguments) == {"k": 2}
    assert own_names.arguments_for("mine:Third", arguments) == {"k": 1}
    own_names.check_takers("arguments", arguments, ["mine:Half", "mine:Other"])
    with pytest.raises(Refusal, match="Received: Other.n=3 with mine:Half,topk"):
        own_names.check_takers("arguments", arguments, ["mine:Half", "topk"])


def test_a_configuration_has_its_arguments_as_a_result_has_them():
    settings = {"compressor": "mine:Half", "compressor_arguments": ("a=[1]", "b=x")}
    configuration = Configuration(**settings)
    assert configuration.compressor_arguments == {"a": (1,), "b": "x"}
    read = settings | {"compressor_arguments": {"a": [1], "b": "x"}}
    assert Configuration(**read) == configuration
    nothing = settings | {"compressor_arguments": {}}
    assert Configuration(**nothing).compressor_arguments is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"compressor": "mine:"}, "`compressor` must be module:Class, as Python names"),
        ({"compressor": "mi ne:Half"}, "must be module:Class, .*'mi ne:Half'"),
        ({"compressor": "mine.Half"}, "must be one of none, .*, or module:Class. Rec"),
        ({"arch": "mine:a.b"}, "`arch` must be module:function, as Python names them"),
        ({"arch": "resnet"}, "must be one of simple-cnn, .*, or module:function. Rec"),
        ({"arch": "mine:f", "datasource": "text"}, "`arch` mine:f cannot be trained o"),
        ({"compressor": "mine:Half", "density": 0.1}, "`density` is not a setting of"),
        ({"compressor_arguments": "k=1"}, "are of compressors given as module:Class"),
        (
            {"compressor": "topk", "density": 0.1, "compressor_arguments": "k=1"},
            "given as module:Class. Received: k=1 with topk",
        ),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(Refusal, match=words):
        Configuration(**settings)


def test_a_module_is_looked_for_in_the_working_directory(mine):  # noqa: F811
    before = set(sys.modules)
    own_names.require_module("compressor", "mine:Half")
    assert "mine" not in set(sys.modules) - before  # Nothing of it was imported.
    assert sys.path[0] == str(mine)
    words = f"`compressor` yours:Half needs a module yours, .*installed nor in {mine}"
    with pytest.raises(Refusal, match=words):
        own_names.require_module("compressor", "yours:Half")
