"""Starts several workers on this machine, from a checkout: see tem_tf/launch/local.py.

    python launch/local.py --workers 4 -- python main.py --datasource digits

Where tem_tf is installed, `tem-tf-run` is the same.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from tem_tf_run import main  # noqa: E402  (after its place is known)

if __name__ == "__main__":
    sys.exit(main())
