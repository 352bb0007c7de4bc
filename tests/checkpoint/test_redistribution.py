"""A checkpoint of four replicas, gone on with by two, and by three."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf.checkpoint.parts import AggregatorState, ReplicaVariables
from tem_tf.checkpoint.redistribution import redistribute
from tem_tf.replica_state import values_here
from tests.training import make_strategy

MEMORIES = {
    "error_feedback": tem_tf.ErrorFeedback(),
    "decaying": tem_tf.DecayingErrorFeedback(0.5),
    "momentum_correction": tem_tf.MomentumCorrection(0.5),
    "ef21": tem_tf.EF21(),
    "ef21_sgdm": tem_tf.EF21SGDM(0.5),
}


class Training:
    """Of one vector, each replica with gradients of its own."""

    def __init__(self, replicas, directory, memory):
        keras.utils.clear_session()
        self.strategy, self.replicas = make_strategy(replicas), replicas
        with self.strategy.scope():
            self.weights = keras.Variable(np.zeros(8, np.float32), name="weights")
            self.optimizer = tem_tf.SparsifiedOptimizer(
                keras.optimizers.SGD(0.5), tem_tf.TopK(0.25), memory=memory
            )
            self.optimizer.build([self.weights])
        self.checkpoint = tem_tf.Checkpoint(directory)
        self.start = self.checkpoint.begin(None, self.optimizer)

    def run(self, steps):
        generator = np.random.default_rng(self.start)
        for _ in range(self.start, steps):
            gradients = tf.constant(generator.integers(-8, 9, (self.replicas, 8)) / 8)

            def replica(gradients=gradients):
                context = tf.distribute.get_replica_context()
                mine = gradients[context.replica_id_in_sync_group] / self.replicas
                self.optimizer.apply([tf.cast(mine, tf.float32)], [self.weights])

            self.strategy.run(replica)
        self.checkpoint.end(steps)

    def kept(self):
        return self.optimizer.aggregator.state.values()


@pytest.mark.filterwarnings("ignore:From . to . replicas cannot be carried")
@pytest.mark.parametrize("name", MEMORIES)
def test_four_two_and_three_workers(name, tmp_path):
    """What all hold together stays: in own units, the mean of residuals."""
    before = Training(4, tmp_path, MEMORIES[name])
    before.run(6)
    for replicas in (2, 3):
        after = Training(replicas, tmp_path, MEMORIES[name])
        assert after.start == before.checkpoint.step
        np.testing.assert_array_equal(after.weights.numpy(), before.weights.numpy())
        for key in (k for k in before.kept()[0] if k.startswith("memory/")):
            old = np.stack([kept[key] for kept in before.kept()])
            new = np.stack([kept[key] for kept in after.kept()])
            if key.startswith("memory/sum"):  # Equal on all replicas.
                np.testing.assert_array_equal(new, np.stack([old[0]] * replicas))
                continue
            assert np.abs(old).sum() > 0
            np.testing.assert_allclose(new.sum(0), old.sum(0), rtol=1e-6, atol=1e-7)
            np.testing.assert_array_equal(new, np.stack([new[0]] * replicas))
        after.run(after.start + 6)  # And it goes on.
        assert np.isfinite(after.weights.numpy()).all()
        before = after


def test_what_cannot_be_carried_is_said(tmp_path):
    Training(2, tmp_path, tem_tf.ErrorFeedback()).run(2)
    words = "From 2 to 3 replicas cannot be carried: communication metrics"
    with pytest.warns(UserWarning, match=words):
        Training(3, tmp_path, tem_tf.ErrorFeedback())


def test_a_compressors_state_goes_on_where_it_is_equal_on_all():
    same = [{"compressor/0/a": np.float32([1, 2])}] * 2
    new, forgotten = redistribute(same, 3, tem_tf.Memory())
    assert len(new) == 3 and not forgotten
    for state in new:
        np.testing.assert_array_equal(state["compressor/0/a"], [1, 2])
    other = [{"compressor/0/a": np.float32([i])} for i in range(2)]
    new, forgotten = redistribute(other, 3, tem_tf.Memory())
    assert new == [{}, {}, {}]
    assert forgotten == ["the compressor's state, which differs between workers"]


def test_accumulated_gradients_keep_their_sum():
    states = [
        {"accumulated/a": np.float32([i, 2]), "accumulated/steps": np.int32(3)}
        for i in (1, 3)
    ]
    new, _ = redistribute(states, 4, tem_tf.Memory())
    np.testing.assert_array_equal([s["accumulated/a"] for s in new], [[1, 1]] * 4)
    assert [s["accumulated/steps"] for s in new] == [3] * 4


@pytest.mark.parametrize(
    ("join", "joined"),
    [("mean", [[2, 4]] * 3), ("sum", [[4, 8], [0, 0], [0, 0]])],
)
def test_variables_of_each_replica_are_joined(join, joined):
    states = [{"a": np.float32([1, 2])}, {"a": np.float32([3, 6])}]
    new = ReplicaVariables(lambda: [], join).redistribute(states, 3)
    np.testing.assert_array_equal([state["a"] for state in new], joined)


def test_rows_are_shared_out_anew_and_integers_are_the_firsts():
    states = [{"a": np.float32([[1], [2], [3]])}, {"a": np.float32([[4], [5], [6]])}]
    new = ReplicaVariables(lambda: [], "rows").redistribute(states, 3)
    np.testing.assert_array_equal(
        [state["a"][:, 0] for state in new], [[1, 2], [3, 4], [5, 6]]
    )
    seeds = [{"a": np.uint32([7, 8])}, {"a": np.uint32([7, 8])}]
    np.testing.assert_array_equal(
        ReplicaVariables(lambda: []).redistribute(seeds, 1)[0]["a"], [7, 8]
    )


def test_local_updates_go_on_with_other_workers(tmp_path):
    """Weights become the mean of workers' own; where they began is where they began."""
    checkpoints = {}

    def training(replicas):
        strategy = make_strategy(replicas)
        keras.utils.clear_session()
        with strategy.scope():
            weights = keras.Variable(np.zeros(3, np.float32), name="weights")
            optimizer = tem_tf.LocalUpdates(
                keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0), local_steps=3
            )
            optimizer.build([weights])
        checkpoints[replicas] = tem_tf.Checkpoint(tmp_path, every=1)
        return strategy, weights, optimizer

    strategy, weights, optimizer = training(2)
    checkpoints[2].begin(None, optimizer)

    def step():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        own = tf.cast(replica, tf.float32) * tf.ones(3) / 2
        optimizer.apply([own], [weights])

    strategy.run(step)  # Replica 0 stays, replica 1 moves by -1.
    checkpoints[2].end(1)
    strategy, weights, optimizer = training(3)
    with pytest.warns(UserWarning, match="cannot be carried: communication metrics"):
        assert checkpoints[3].begin(None, optimizer) == 1
    assert optimizer.pending == 1
    for each in values_here(weights):
        np.testing.assert_array_equal(each.numpy(), [-0.5] * 3)
    optimizer.synchronise()
    np.testing.assert_array_equal(weights.numpy(), [-0.5] * 3)


def test_of_local_updates_the_mean_of_what_is_held_back_stays():
    aggregator = tem_tf.Aggregator(
        tem_tf.TopK(0.5), gradients_divided_by_replicas=False
    )
    part = AggregatorState(aggregator, of_means=True)
    states = [{"memory/residual/a": np.float32([2, i])} for i in (1, 3)]
    for replicas in (1, 4):
        for state in part.redistribute(states, replicas):
            np.testing.assert_array_equal(state["memory/residual/a"], [2, 2])
