"""The launcher, `tem-tf-run`: the workers of one job, started on this machine.

It needs the standard library alone, so that it starts in a blink, and imports its own
parts relatively, so that it can be loaded without its parent (see tem_tf_run.py).
"""

from . import local

__all__ = ["local"]
