"""Examples in docstrings as the site shows them: `>>>` and what follows, as code."""

import re

import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$|```).*)*", re.MULTILINE)


class Examples(griffe.Extension):
    """Puts a fence around each example that has none."""

    def on_object(self, *, obj, **kwargs):
        """Called for each object that has been read."""
        if obj.docstring is None:
            return
        parts = re.split(r"(^```.*?^```)", obj.docstring.value, flags=re.M | re.S)
        parts[::2] = [
            EXAMPLE.sub(lambda example: f"```pycon\n{example[0]}\n```", part)
            for part in parts[::2]
        ]
        obj.docstring.value = "".join(parts)
