"""What setup.cfg cannot say: the README as a package index can show it."""

import pathlib
import re

from setuptools import setup


def without_relative_links(text: str) -> str:
    """Takes pictures away and leaves of a link its words, where the rest is a path.

    An index shows the text alone, without the files beside it.
    """
    text = re.sub(r"!\[[^]]*\]\((?!https?:)[^)]*\)\n*", "", text)
    return re.sub(r"\[([^]]+)\]\((?!https?:)[^)]*\)", r"\1", text)


readme = pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8")
setup(long_description=without_relative_links(readme))
