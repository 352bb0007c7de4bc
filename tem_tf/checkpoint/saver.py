"""All workers save together and go on together: the protocol of a checkpoint.

Start, collective:
    1. the chief makes the directory; the others look whether they see it
    2. the chief names its newest checkpoint; each worker reads what is its own of it
    3. if it is damaged on one, all take the one before; else all go on from there

Save: all compare what must be equal (agreement.py); a copy is taken between two steps,
and a thread writes it, with no collective (directory.py).
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from tem_tf import heartbeat
from tem_tf.checkpoint.agreement import require_agreement
from tem_tf.checkpoint.array_files import Arrays, Damaged, require_numbers
from tem_tf.checkpoint.directory import SHARED, Directory, Manifest, NewerFormat
from tem_tf.checkpoint.parts import Part
from tem_tf.version import VERSION
from tem_tf.worker_texts import WorkerTexts

# For how long a directory may look other on other machines: network file systems keep
# what they have seen for some seconds.
_SECONDS_TO_SEE = 10.0
_SHOWN = 3  # Differences that an error names.
_VERSIONS = {
    "tem_tf": VERSION,
    "tensorflow": tf.__version__,
    "keras": keras.__version__,
}


class Saver:
    """Saves and restores parts on all workers.

    Args:
        directory: Shared by all workers.
        keep: How many checkpoints stay.
        texts: Of the strategy's workers.
        worker: This one's number; 0 is the chief.
        parts: What is saved, by name.
        facts: What must be as it was, in words.
        commit_seconds: How long the chief waits for the others' files.
    """

    def __init__(
        self,
        directory: str,
        keep: int,
        texts: WorkerTexts,
        worker: int,
        parts: Mapping[str, Part],
        facts: Mapping[str, str],
        commit_seconds: float,
    ):
        self._texts, self._worker, self._parts = texts, worker, dict(parts)
        self._facts = {k: v for k, v in facts.items() if k not in _VERSIONS}
        self._facts["parts"] = ", ".join(sorted(parts))  # Each has its state, or none.
        self._commit_seconds = commit_seconds
        self._files = Directory(directory, worker, texts.workers, keep)
        self._replicas = 1
        self._thread: threading.Thread | None = None

    def restore(self, replicas: int) -> bool:
        """Sets all parts to the newest checkpoint's, if there is one. Collective.

        Args:
            replicas: Of this process.

        Raises:
            ValueError: on all workers: the directory cannot be used, or its checkpoint
                is of other settings or of a newer tem_tf.
        """
        self._replicas = replicas
        self._meet()
        damaged: set[int] = set()
        while (step := self._newest(damaged)) is not None:
            states, outcome = self._try(step)
            outcomes = [json.loads(said) for said in self._texts.gather(outcome)]
            for said in outcomes:
                if "refused" in said:
                    raise ValueError(said["refused"])
            reasons = [said["damaged"] for said in outcomes if "damaged" in said]
            if not reasons:
                for name, part in self._parts.items():
                    if name in states:
                        part.write(states[name])
                return True
            damaged.add(step)
            if self.is_chief:
                self._set_aside(step, reasons[0])
        return False

    def save(self, step: int) -> None:
        """Takes a copy of all parts, and has it written; waits for the one before.

        Collective.

        Raises:
            Diverged: on all workers: replicas differ in what must be equal.
            TypeError: a part holds no numbers.
        """
        self.wait()
        require_agreement(step, self._parts, self._texts)
        shared: Arrays | None = {} if self.is_chief else None
        own: Arrays = {}
        for name, part in self._parts.items():
            if part.is_shared:
                if shared is not None:
                    (state,) = part.read()
                    shared |= {f"{name}/{key}": value for key, value in state.items()}
                continue
            for replica, state in enumerate(part.read()):
                own |= {f"{replica}/{name}/{k}": value for k, value in state.items()}
        require_numbers({**(shared or {}), **own})  # Here: nobody hears the thread.
        self._thread = threading.Thread(
            target=self._write, args=(step, shared, own), daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Waits until what was to be written is."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def is_committed(self, step: int) -> bool:
        """Waits until a checkpoint is whole, on every worker; False if it is not."""
        self.wait()
        deadline = time.monotonic() + self._commit_seconds
        while step not in self._files.committed():
            if self.is_chief or time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    @property
    def is_chief(self) -> bool:
        """Whether this worker commits and removes."""
        return self._worker == 0

    def _write(self, step: int, shared: Arrays | None, own: Arrays) -> None:
        try:
            self._files.write(step, shared, own)
            if self.is_chief:
                about = {"facts": self._facts, "versions": _VERSIONS}
                self._files.commit(step, self._replicas, about, self._commit_seconds)
                heartbeat.committed(step)  # The others have but written their part.
        except (OSError, TimeoutError) as error:
            if self.is_chief:
                self._files.give_up(step)
            else:
                self._files.say_failed(step)
            reason = getattr(error, "strerror", None) or error
            newest = self._files.committed()[:1]
            last = f"the last one is of step {newest[0]}" if newest else "there is none"
            print(
                f"tem_tf: the checkpoint of step {step} cannot be written: {reason}. "
                f"Training goes on; {last}.",
                file=sys.stderr,
                flush=True,
            )

    def _meet(self) -> None:
        """1: one directory, and a name for this start."""
        said: dict[str, str] = {}
        if self.is_chief:
            try:
                said["run"] = uuid.uuid4().hex
                self._files.prepare(said["run"])
            except OSError as error:
                said["error"] = error.strerror or str(error)
        chief = json.loads(self._texts.gather(json.dumps(said))[0])
        directory = str(self._files.directory)
        if "error" in chief:
            raise ValueError(
                "`directory` must be a directory that can be written to. "
                f"Received: directory={directory!r} ({chief['error']})"
            )
        self._files.run = chief["run"]
        seen = self._texts.gather("yes" if self._sees() else "no")
        if self.is_chief:
            with contextlib.suppress(OSError):
                self._files.forget_start()
        blind = [f"worker {i}" for i, answer in enumerate(seen) if answer != "yes"]
        if blind:
            raise ValueError(
                "`directory` must be shared by all workers. Received: directory="
                f"{directory!r}, in which {', '.join(blind)} cannot see what the chief "
                "has written"
            )

    def _sees(self) -> bool:
        deadline = time.monotonic() + _SECONDS_TO_SEE
        while not self._files.sees_start():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def _newest(self, damaged: set[int]) -> int | None:
        """2: as the chief sees it."""
        newest = [step for step in self._files.committed() if step not in damaged]
        said = self._texts.gather(json.dumps(newest[:1]))[0]
        return next(iter(json.loads(said)), None)

    def _try(self, step: int) -> tuple[dict[str, Sequence[Arrays]], str]:
        """This worker's states in a checkpoint, and in JSON why there are none."""
        try:
            manifest = self._files.manifest(step)
            self._compare(manifest)
            return self._states(manifest), "{}"
        except Damaged as error:
            return {}, json.dumps({"damaged": str(error)})
        except (NewerFormat, ValueError) as error:
            return {}, json.dumps({"refused": str(error)})

    def _compare(self, manifest: Manifest) -> None:
        theirs, ours = manifest.about["facts"], self._facts
        differences = [
            f"{name} ({theirs.get(name, 'none')} there, {ours.get(name, 'none')} here)"
            for name in sorted(theirs.keys() | ours.keys())
            if theirs.get(name) != ours.get(name)
        ]
        if differences:
            more = len(differences) - _SHOWN
            shown = "; ".join(differences[:_SHOWN])
            raise ValueError(
                "A checkpoint must be of the same model, trained in the same way. "
                f"Received: {self._files.directory} at step {manifest.step}, which "
                f"differs in {shown}{f'; and {more} more' if more > 0 else ''}. Pass "
                "another directory."
            )
        if self.is_chief and manifest.about["versions"] != _VERSIONS:
            then = ", ".join(f"{k} {v}" for k, v in manifest.about["versions"].items())
            warnings.warn(
                f"The checkpoint of step {manifest.step} was written with {then}: with "
                "other versions training goes on, but not bit for bit.",
                stacklevel=2,
            )

    def _states(self, manifest: Manifest) -> dict[str, Sequence[Arrays]]:
        shared = _by_part(self._files.read(manifest, SHARED))
        states: dict[str, Sequence[Arrays]] = {k: [v] for k, v in shared.items()}
        here = (self._replicas,) * self._texts.workers
        first = self._worker * self._replicas
        if manifest.replicas == here:
            return states | self._own(manifest, [self._worker])
        own = self._own(manifest, range(len(manifest.replicas)))
        for name, each_replica in own.items():
            if name in self._parts and len(each_replica) != sum(here):
                each_replica = self._parts[name].redistribute(each_replica, sum(here))
            states[name] = each_replica[first : first + self._replicas]
        return states

    def _own(
        self, manifest: Manifest, workers: Sequence[int]
    ) -> dict[str, Sequence[Arrays]]:
        """What some workers had for themselves: by part, for each of their replicas."""
        found: dict[str, list[Arrays]] = {}
        for worker in workers:
            arrays = self._files.read(manifest, worker)
            by_replica = _by_part(arrays)
            for replica in sorted(by_replica, key=int):
                for name, state in _by_part(by_replica[replica]).items():
                    found.setdefault(name, []).append(state)
        return dict(found)

    def _set_aside(self, step: int, reason: str) -> None:
        with contextlib.suppress(OSError):
            aside = self._files.set_aside(step)
            is_last = not self._files.committed()
            then = "training begins anew" if is_last else "the one before it is taken"
            warnings.warn(
                f"The checkpoint of step {step} is damaged ({reason}) and was moved to "
                f"{aside}; {then}.",
                stacklevel=3,
            )


def _by_part(arrays: Arrays) -> dict[str, Arrays]:
    """Arrays named PART/NAME, by part."""
    found: dict[str, Arrays] = {}
    for name, array in arrays.items():
        part, _, rest = name.partition("/")
        found.setdefault(part, {})[rest] = array
    return found
