"""Writing callbacks of a worker that is not the chief, here in one process."""

import os
import pathlib
import tempfile

import keras
import numpy as np
import pytest

from tem_tf import chief_writing

# Keras's own, while it writes a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

X = np.arange(16, dtype="float32")[:, None] / 16


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where scratch directories are made."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def model():
    """One weight and one bias."""
    keras.utils.set_random_seed(0)
    made = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    made.compile("sgd", "mse")
    return made


def fit(*callbacks, epochs=2, function="fit", elsewhere=True):
    """Trains, or evaluates, as the worker that is not the chief would."""
    if elsewhere:
        chief_writing.write_elsewhere(callbacks, function)
    call = getattr(model(), function)
    rest = {"epochs": epochs} if function == "fit" else {}
    call(X, X, batch_size=8, verbose=0, callbacks=list(callbacks), **rest)


def files(path):
    """All files below a directory, by name."""
    return sorted(p.name for p in path.rglob("*") if p.is_file())


def writers(place):
    """By name, one of each kind, and the attribute by which it writes."""
    return {
        "checkpoint": (
            keras.callbacks.ModelCheckpoint(place / "e{epoch}.keras"),
            "filepath",
        ),
        "csv": (keras.callbacks.CSVLogger(place / "log.csv"), "filename"),
        "tensorboard": (keras.callbacks.TensorBoard(place, update_freq=1), "log_dir"),
        "backup": (
            keras.callbacks.BackupAndRestore(place / "b", delete_checkpoint=False),
            "backup_dir",
        ),
    }


class Watch(keras.callbacks.Callback):
    """Calls a function at each epoch's end."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def on_epoch_end(self, epoch, logs=None):
        self.function()


@pytest.mark.parametrize("name", ["checkpoint", "csv", "tensorboard", "backup"])
def test_it_writes_elsewhere_for_one_call(name, tmp_path, scratch):
    place = tmp_path / "given"
    place.mkdir()
    callback, attribute = writers(place)[name]
    given, seen = getattr(callback, attribute), []
    watch = Watch(lambda: seen.append((getattr(callback, attribute), files(scratch))))
    fit(callback, watch)
    assert not files(place)
    assert not any(scratch.iterdir())
    # Others see the path that was given; and something was written.
    assert [path for path, _ in seen] == [given] * 2
    assert all(written for _, written in seen)
    assert not any(hasattr(value, "elsewhere") for value in vars(callback).values())
    fit(callback, elsewhere=False)
    assert files(place)


def test_evaluate_alone_ends_with_its_own_hook(tmp_path, scratch):
    callback, _ = writers(tmp_path / "given")["tensorboard"]
    fit(callback, function="evaluate")
    assert not (tmp_path / "given").exists()
    assert not any(scratch.iterdir())


def test_relative_paths_and_those_above_stay_in_the_scratch(
    tmp_path, scratch, monkeypatch
):
    below = tmp_path / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    fit(
        keras.callbacks.CSVLogger("log.csv"),
        keras.callbacks.BackupAndRestore("../backup/", delete_checkpoint=False),
    )
    assert files(tmp_path) == []


def test_a_name_that_is_a_setting_too_leaves_the_setting(tmp_path, scratch):
    callback = keras.callbacks.TensorBoard("epoch")
    seen = []
    callback.on_epoch_begin = lambda *_: seen.append(
        (callback.update_freq, callback.log_dir)
    )
    chief_writing.write_elsewhere([callback], "fit")
    callback.on_epoch_begin(0)
    assert seen[0][0] == "epoch"
    assert seen[0][1].startswith(str(scratch))


def test_of_checkpoints_the_latest_is_kept_and_can_be_read(tmp_path, scratch):
    kept, loaded = [], []

    class Last(keras.callbacks.ModelCheckpoint):
        def on_train_end(self, logs=None):
            path = self.filepath.format(epoch=3)
            loaded.append(keras.saving.load_model(path).get_weights())

    watch = Watch(lambda: kept.append(files(scratch)))
    fit(Last(tmp_path / "e{epoch}.keras"), watch, epochs=3)
    assert kept == [["e1.keras"], ["e2.keras"], ["e3.keras"]]
    assert len(loaded) == 1
    assert files(tmp_path) == []


def test_a_path_that_a_hook_has_set_anew_stays(tmp_path, scratch):
    class Renaming(keras.callbacks.CSVLogger):
        def on_train_begin(self, logs=None):
            super().on_train_begin(logs)
            self.filename = "another.csv"

    callback = Renaming(tmp_path / "log.csv")
    fit(callback)
    assert callback.filename == "another.csv"


def test_a_call_that_raised_is_undone_by_the_next(tmp_path, scratch):
    callback, _ = writers(tmp_path)["csv"]

    def fail():
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        fit(callback, Watch(fail))
    assert callback.filename == str(tmp_path / "log.csv")
    fit(callback)
    assert not any(scratch.iterdir())
    fit(callback, elsewhere=False)
    assert files(tmp_path) == ["log.csv"]


def test_callbacks_of_other_kinds_are_left_alone(tmp_path):
    reading = keras.callbacks.Callback()
    reading.filename = reading.filepath = str(tmp_path / "input.csv")
    before = dict(vars(reading))
    chief_writing.write_elsewhere([reading], "fit")
    assert vars(reading) == before


def test_hooks_in_two_threads_give_the_path_back_once(tmp_path, scratch):
    callback, _ = writers(tmp_path)["csv"]
    chief_writing.write_elsewhere([callback], "fit")
    elsewhere = callback.on_train_end.elsewhere
    with elsewhere.paths():
        with elsewhere.paths():
            assert callback.filename.startswith(str(scratch))
        assert callback.filename.startswith(str(scratch))
    assert callback.filename == str(tmp_path / "log.csv")


def test_a_backup_is_copied_and_its_contents_told(tmp_path, scratch):
    place = tmp_path / "given"
    chief, _ = writers(place)["backup"]
    fit(chief, elsewhere=False)
    written = files(place)
    assert written == ["latest.weights.h5", "training_metadata.json"]
    other = keras.callbacks.BackupAndRestore(tmp_path / "own", delete_checkpoint=True)
    chief_writing.write_elsewhere([other], "fit")
    chief_writing.copy_backups([other], chief_writing.backup_dirs([chief]))
    contents = chief_writing.backup_contents([chief])
    assert chief_writing.backup_contents([other]) == contents
    assert [name.split()[0] for name in contents[0]] == written
    begun = []
    starts = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: begun.append(epoch)
    )
    chief_writing.write_elsewhere([other], "fit")  # As another call would.
    chief_writing.copy_backups([other], chief_writing.backup_dirs([chief]))
    fitted = model()
    fitted.fit(X, X, epochs=3, verbose=0, callbacks=[other, starts])
    assert begun == [2]
    assert files(place) == written  # The other's are deleted, not these.
    (place / "b" / written[1]).write_text("{}")
    assert chief_writing.backup_contents([chief]) != contents


def test_a_backup_of_which_there_is_none_has_no_contents(tmp_path, scratch):
    callback = keras.callbacks.BackupAndRestore(pathlib.Path(tmp_path, "none"))
    assert chief_writing.backup_contents([callback]) == [[]]
    chief_writing.write_elsewhere([callback], "fit")
    chief_writing.copy_backups([callback], [os.path.join(tmp_path, "nor here")])
    assert chief_writing.backup_contents([callback]) == [[]]


def test_a_place_in_the_cloud_is_replaced_by_one_here(scratch):
    callback = keras.callbacks.TensorBoard("gs://bucket/logs")
    chief_writing.write_elsewhere([callback], "fit")
    with callback.on_train_end.elsewhere.paths():
        assert callback.log_dir.startswith(str(scratch))
        assert callback.log_dir.endswith("/gs/bucket/logs")
