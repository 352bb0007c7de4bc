"""The example of a compressor of one's own, run as its first lines say."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_the_example_checks_itself_and_trains_on_two_workers():
    script = ROOT / "examples" / "own_compressor.py"
    launcher = [sys.executable, str(ROOT / "tem_tf_run.py"), "--workers", "2", "--"]
    done = subprocess.run(
        [*launcher, sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    shares = re.findall(r"(\S+) % of the gradients' entries were sent", done.stdout)
    assert len(shares) == 2 and shares[0] == shares[1]
    assert 0 < float(shares[0]) < 50
