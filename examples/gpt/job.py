r"""The whole job, from a wheel to its last step, with a worker killed on the way.

    sudo python examples/gpt/job.py input.txt        # half an hour on two cores
    sudo python examples/gpt/job.py input.txt --log examples/gpt/job.log

1. A wheel is built from this checkout and installed in an empty folder, beside
   train.py: nothing else of the checkout is there.
2. `tem-tf-run` starts four workers, each in a network namespace of its own, over links
   of 20 Mbit/s and 50 ms one way (benchmarks/relay.py, measured first). They train to
   the end.
3. The same once more, in another folder; when the checkpoint of half of the steps is
   there, one worker gets SIGKILL. `tem-tf-run --max_restarts 3` starts all anew.
4. The last lines must be the same, to the bits of the weights; else the exit code is 1.

Needs root, iproute2, g++, and what `pip install` needs.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import relay  # noqa: E402

WORKERS, LINK = 4, "20mbit-50ms"
KILLED = 2  # The worker.
EVERY = 100  # Steps between two checkpoints of train.py.
SECONDS_TO_INSTALL, SECONDS_TO_TRAIN, SECONDS_TO_END = 1200, 1800, 60
# Run by tem-tf-run as each worker: its address is that of a namespace.
ENTERING = """
import json, os, sys
config = json.loads(os.environ["TF_CONFIG"])
ports = [address.rsplit(":", 1)[1] for address in config["cluster"]["worker"]]
addresses, *namespaces = json.loads(sys.argv[1])
config["cluster"]["worker"] = [f"{a}:{p}" for a, p in zip(addresses, ports)]
os.environ["TF_CONFIG"] = json.dumps(config)
inside = namespaces[config["task"]["index"]]
command = [*inside, sys.executable, *sys.argv[2:]]
os.execvp(command[0], command)
"""


class Log:
    """Lines with the seconds since the beginning: on the screen, and kept.

    Args:
        hidden: Texts that differ from machine to machine, and what stands for each.
    """

    def __init__(self, hidden):
        self._began, self._hidden = time.monotonic(), hidden
        self.lines = []

    def __call__(self, text):
        """Adds lines."""
        for line in text.splitlines():
            for machine, word in self._hidden.items():
                line = line.replace(machine, word)
            self.lines.append(f"{time.monotonic() - self._began:6.1f} s  {line}")
            print(self.lines[-1], flush=True)


def environment():
    """This process's, without what would lead to the checkout."""
    names = ("PYTHONPATH", "PYTHONHOME", "TF_CONFIG", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in names}


def installed(folder, log):
    """Builds and installs the wheel; returns the folder of its programs."""

    def run(*command):
        subprocess.run(
            list(map(str, command)),
            cwd=folder,
            env=environment(),
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=SECONDS_TO_INSTALL,
        )

    pip = (sys.executable, "-m", "pip")
    run(*pip, "wheel", "-q", "--no-deps", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    log(f"built {wheel.name}")
    run(sys.executable, "-m", "venv", folder / "venv")
    programs = folder / "venv" / "bin"
    run(programs / "python", "-m", "pip", "install", "-q", wheel)
    log("installed")
    shutil.copy(ROOT / "examples" / "gpt" / "train.py", folder)
    return programs


def worker_pid(launcher, index):
    """The process of a worker, which is a child of the launcher."""
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            words = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # It has ended meanwhile.
        config = [word for word in words if word.startswith(b"TF_CONFIG=")]
        if parent == launcher and config:
            task = json.loads(config[0].partition(b"=")[2])["task"]
            if task["index"] == index:
                return int(path.name)
    raise RuntimeError(f"Worker {index} is not there.")


def train(folder, programs, links, text, name, steps, log, killed=None):
    """One training, of which a worker may be `killed`; returns its last line."""
    address = [links.address(i) for i in range(WORKERS)]
    spaces = json.dumps([address, *(links.inside(i) for i in range(WORKERS))])
    entering = folder / "entering.py"
    entering.write_text(ENTERING)
    command = [programs / "tem-tf-run", f"--workers={WORKERS}", "--max_restarts=3"]
    command += ["--threads_per_worker=1", "--", "python", entering, spaces]
    command += ["train.py", text, name, f"--steps={steps}"]
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=folder,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    last = threading.Timer(SECONDS_TO_TRAIN, process.terminate)
    last.start()
    was_killed = threading.Event()
    if killed is not None:
        checkpoints = folder / name / "checkpoints"
        half = max(1, steps // 2 // EVERY)
        arguments = (process, checkpoints, half, killed, was_killed, log)
        threading.Thread(target=kill_midway, args=arguments, daemon=True).start()
    end = None
    try:
        assert process.stdout is not None
        for line in process.stdout:
            log(f"{name}: {line.rstrip()}")
            end = re.search("validation loss .*", line) or end
        code = process.wait(SECONDS_TO_END)
    finally:
        last.cancel()
        if process.poll() is None:
            process.terminate()  # It ends its workers.
            process.wait(SECONDS_TO_END)
    if killed is not None and not was_killed.is_set():
        raise SystemExit(f"{name}: nobody was killed")
    if code or end is None:
        raise SystemExit(f"{name}: exit code {code}")
    return end.group()


def kill_midway(process, checkpoints, count, index, was_killed, log):
    """Kills a worker when so many checkpoints are committed."""
    while len(list(checkpoints.glob("step-*/manifest.json"))) < count:
        if process.poll() is not None:
            return
        time.sleep(0.05)
    pid = worker_pid(process.pid, index)
    log(f"worker {index} is killed")
    os.kill(pid, signal.SIGKILL)
    was_killed.set()


def main():
    """Does it all; the exit code says whether the bits are the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--log", type=pathlib.Path, help="write the lines here, too")
    arguments = parser.parse_args()
    text = arguments.text.resolve(strict=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name).resolve()
        log = Log({str(folder): "FOLDER", str(text): text.name})
        programs = installed(folder, log)
        with relay.RelayedLinks(WORKERS, relay.LINKS[LINK]) as links:
            rate, seconds = relay.check(links)
            log(f"{rate / 1e6:.1f} Mbit/s, {1e3 * seconds:.1f} ms there and back")
            common = (folder, programs, links, text)
            ends = [
                train(*common, "undisturbed", arguments.steps, log),
                train(*common, "killed", arguments.steps, log, KILLED),
            ]
    same = len(set(ends)) == 1
    log("the same bits" if same else "OTHER BITS")
    if arguments.log:
        arguments.log.write_text("\n".join(log.lines) + "\n")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
