"""The documentation as a site is built without a warning."""

import pathlib
import subprocess
import sys

import pytest

import tem_tf

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What `mkdocs build` makes; any warning is an error (mkdocs.yml)."""
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_it_has_the_pages_of_the_checkout_where_they_are(site):
    for page in [*ROOT.glob("docs/*.md"), *ROOT.glob("studies/*/README.md")]:
        place = page.relative_to(ROOT).with_suffix("")
        folder = place.parent if place.name == "README" else place
        assert (site / folder / "index.html").exists(), page
    assert "board.png" in (site / "index.html").read_text()
    assert (site / "studies" / "time_to_target" / "board.png").exists()


def test_the_reference_has_every_public_name_with_its_examples(site):
    text = (site / "reference" / "index.html").read_text()
    for name in tem_tf.__all__:
        if not name.startswith("_"):
            assert f'id="tem_tf.{name}"' in text, name
    # An example begins a block of code, and is no sentence.
    assert "<p>&gt;&gt;&gt;" not in text
    assert text.count("&gt;&gt;&gt; ") >= 20
