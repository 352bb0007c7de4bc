"""A wish to stop that comes while the newest checkpoint is read."""

import signal

import pytest

import tem_tf
from tem_tf.checkpoint.saver import Saver
from tests.checkpoint.one_weight import OneWeight


@pytest.fixture
def asked_while_restoring(monkeypatch):
    restore = Saver.restore

    def asked(saver, replicas):
        signal.raise_signal(signal.SIGTERM)
        return restore(saver, replicas)

    monkeypatch.setattr(Saver, "restore", asked)


def test_it_is_kept_until_the_next_step(tmp_path, asked_while_restoring):
    for step in (1, 2):
        training = OneWeight(tmp_path)
        assert training.start == step - 1
        with pytest.raises(tem_tf.Stopped) as stopped:
            training.run(steps=5)
        assert stopped.value.step == step


def test_a_training_that_does_not_begin_leaves_the_signals(tmp_path):
    (tmp_path / "file").write_text("")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="`directory` must be a directory"):
        OneWeight(tmp_path / "file")
    assert signal.getsignal(signal.SIGTERM) == before == signal.SIG_DFL
