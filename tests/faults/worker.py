"""One worker of a training that may be disturbed: `-m tests.faults.worker SCRATCH`.

In SCRATCH settings.json says what to do (job.py); `events-N.jsonl` gets what happens on
worker N, and `ending-N.json` what must be the same however often it was killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import signal
import sys
import time

from tests.faults import disk
from tests.faults.points import Moment, Trigger, in_exchanges, in_files

EPOCHS, EVERY = 5, 2  # Of eight steps each; steps between two checkpoints.


class Notes:
    """Events of this worker in this start, a line each, at once in the file.

    Args:
        scratch: The folder.
        worker: This worker's number.
        restart: How often all were started anew.
    """

    def __init__(self, scratch: pathlib.Path, worker: int, restart: int):
        self._about = {"worker": worker, "restart": restart}
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file = os.open(scratch / f"events-{worker}.jsonl", flags, 0o644)

    def add(self, event: str, **more) -> None:
        """Notes what happens now."""
        line = {"event": event, "time": time.time(), **self._about, **more}
        os.write(self._file, (json.dumps(line) + "\n").encode())


def main() -> None:
    """Trains to the end, if nothing comes between."""
    scratch = pathlib.Path(sys.argv[1])
    settings = json.loads((scratch / "settings.json").read_text())
    worker = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    restart = int(os.environ.get("TEM_TF_RESTART", "0"))
    notes = Notes(scratch, worker, restart)
    notes.add("started", pid=os.getpid())
    trigger = _trigger(settings, worker, restart, notes)
    trigger.reach("start")
    ending = _train(settings, worker, trigger, notes)
    (scratch / f"ending-{worker}.json").write_text(json.dumps(ending))
    notes.add("ended")


def _trigger(settings: dict, worker: int, restart: int, notes: Notes) -> Trigger:
    faults = settings["faults"][restart : restart + 1]
    fault = next((f for f in faults if f and f["worker"] == worker), None)
    if fault is None or fault["moment"] is None:
        return Trigger(None, lambda: None)

    def act() -> None:
        notes.add("fault", action=fault["action"])
        if fault["action"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        disk.FAULTS[fault["action"]](pathlib.Path(settings["directory"]))
        notes.add("fault done")

    return Trigger(Moment(*fault["moment"]), act)


def _train(settings: dict, worker: int, trigger: Trigger, notes: Notes) -> dict:
    import keras

    import tem_tf
    from tem_tf import heartbeat
    from tests.checkpoint.training import ending, make_dataset, make_model
    from tests.faults.rows import ROWS

    class Steps(keras.callbacks.Callback):
        """Says where training is, ahead of Checkpoint."""

        def on_train_batch_begin(self, batch, logs=None):
            trigger.reach("step")

        def on_train_batch_end(self, batch, logs=None):
            notes.add("step")
            trigger.reach("step", after=True)
            time.sleep(settings["pause"])

        def on_train_end(self, logs=None):
            trigger.reach("end")

    class Restored(keras.callbacks.Callback):
        """Says when Checkpoint has restored."""

        def on_train_begin(self, logs=None):
            notes.add("restored", step=checkpoint.step)
            trigger.reach("start")

    committed = heartbeat.committed

    def committed_to_note(step):
        committed(step)
        notes.add("committed", step=step)

    heartbeat.committed = committed_to_note
    if not settings["synced"]:
        os.fsync = lambda descriptor: None
    strategy = tem_tf.MultiWorkerMirroredStrategy()
    notes.add("met")
    trigger.reach("start")
    directory = pathlib.Path(settings["directory"])
    in_files(trigger, directory, is_chief=worker == 0)
    in_exchanges(trigger)
    model = make_model(strategy, ROWS[settings["row"]])
    model.train_step = trigger.around("trace", model.train_step)
    checkpoint = tem_tf.Checkpoint(directory, every=EVERY)
    history = model.fit(
        checkpoint.data(make_dataset),
        epochs=settings["epochs"],
        callbacks=[Steps(), checkpoint, Restored()],
        shuffle=False,
        verbose=0,
    )
    trigger.reach("end", after=True)
    last = ending(model)
    return {
        "variables": [hashlib.sha256(value).hexdigest() for value in last["variables"]],
        "kept": {
            name: hashlib.sha256(value).hexdigest()
            for name, value in last["kept"].items()
        },
        "history": {
            name: [float(value).hex() for value in values]
            for name, values in history.history.items()
        },
        "epochs": list(history.epoch),
    }


if __name__ == "__main__":
    main()
