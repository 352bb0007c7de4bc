"""What is written leads somewhere: every link to a file of this checkout."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("studies/*/README.md"),
    ]
)
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    text = re.sub(r"`[^`]*`", "", CODE.sub("", page.read_text(encoding="utf-8")))
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    missing = [
        target
        for target in targets
        if not re.match("https?:", target) and not (page.parent / target).exists()
    ]
    assert missing == []


def test_every_page_of_docs_is_led_to():
    found = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    }
    assert {*ROOT.glob("docs/*.md")} - found == set()
