"""NeuMF, its pairs and its ranking, against their equations."""

import json

import jsonschema
import numpy as np
import pytest
import tensorflow as tf

from tem_studies.workloads import experiment, ratings_files, ratings_task, results
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.examples import Share
from tem_studies.workloads.logdir import SCHEMA_PATH
from tem_studies.workloads.neumf import NeuMF
from tem_studies.workloads.optimizers import make_optimizer
from tem_studies.workloads.ratings_files import Ratings
from tem_studies.workloads.training import Trainer

SETTINGS = {
    "arch": "neumf",
    "datasource": "movielens-small",
    "target_sparsity": 0.0,
    "batch_size": 60,
    "optimizer": "adam",
    "learning_rate": 0.0045,
    "beta_1": 0.25,
    "beta_2": 0.5,
    "epsilon": 1e-8,
}


@pytest.fixture(scope="module")
def data():
    """Twelve users of two tastes: even users rate even items, odd users odd ones."""
    generator = np.random.default_rng(0)
    users, items = [], []
    for user in range(12):
        liked = 2 * generator.permutation(40)[:25] + user % 2
        users += [user] * 25
        items += liked.tolist()
    times = generator.permutation(len(users))
    return ratings_files.split(Ratings(np.array(users), np.array(items), times, "here"))


def make_task(data, **settings):
    return ratings_task.RatingsTask(Configuration(**SETTINGS | settings), data)


def strategy_of(replicas):
    if replicas == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])


def share(replica=0, replicas=1, step=0):
    return Share(tf.constant(replica), replicas, tf.constant(step, tf.int64))


# ------------------------------------------------------------------------- the network


def test_sizes_add_up_to_the_studys_number_of_parameters():
    small = NeuMF(3, 5).count_params()
    # Each user and each item has 64 + 128 numbers; the rest does not depend on them.
    assert small - 8 * 192 + (138_493 + 26_744) * 192 == 31_832_577


@pytest.mark.slow
def test_full_size_has_the_studys_number_of_parameters():
    assert NeuMF(138_493, 26_744).count_params() == 31_832_577


def test_network_computes_what_is_described():
    model = NeuMF(4, 6)
    generator = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(generator.normal(0, 0.3, variable.shape).astype(np.float32))
    w = {v.path.split("neumf/")[-1]: v.numpy() for v in model.trainable_variables}
    users, items = np.array([0, 3, 3]), np.array([5, 0, 2])
    product = w["user_factors/embeddings"][users] * w["item_factors/embeddings"][items]
    x = np.concatenate(
        [w["user_inputs/embeddings"][users], w["item_inputs/embeddings"][items]], axis=1
    )
    for i, width in enumerate((256, 128, 64), start=1):
        assert w[f"hidden_{i}/kernel"].shape[1] == width
        x = np.maximum(x @ w[f"hidden_{i}/kernel"] + w[f"hidden_{i}/bias"], 0)
    both = np.concatenate([product, x], axis=1)
    want = both @ w["logit/kernel"][:, 0] + w["logit/bias"][0]
    got = model(tf.constant(users), tf.constant(items))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_initial_values_are_the_studys():
    for variable in NeuMF(300, 200).trainable_variables:
        values, name = variable.numpy(), variable.path
        if name.endswith("bias"):
            assert not values.any()
        elif name.endswith("embeddings"):
            assert values.std() == pytest.approx(0.01, rel=0.05)
        else:
            fan_in, fan_out = values.shape
            variance = 1 / fan_in if "logit" in name else 2 / (fan_in + fan_out)
            assert abs(values).max() <= np.sqrt(3 * variance)
            assert values.std() == pytest.approx(np.sqrt(variance), rel=0.2)


# ------------------------------------------------------------------------------- pairs


def test_epoch_holds_each_positive_once_and_four_drawn_with_it(data):
    task = make_task(data, batch_size=92)
    assert task.train.examples == 5 * 12 * 23 == 92 * task.steps_per_epoch
    positives, negatives = [], []
    for step, rows in enumerate(task.take(task.steps_per_epoch)):
        users, items, labels = task.train.pairs(tf.constant(rows), share(step=step))
        for user, item, label in zip(
            users.numpy().tolist(), items.numpy().tolist(), labels.numpy(), strict=True
        ):
            (positives if label else negatives).append((user, item))
    want = zip(data.train_users.tolist(), data.train_items.tolist(), strict=True)
    assert sorted(positives) == sorted(want)
    assert np.bincount([user for user, _ in negatives]).tolist() == [4 * 23] * 12
    drawn = np.bincount([item for _, item in negatives], minlength=data.items)
    # 1,104 draws over the items; five deviations.
    expected = 4 * 12 * 23 / data.items
    assert abs(drawn - expected).max() < 5 * np.sqrt(expected)


def test_draws_are_new_with_the_step_and_do_not_depend_on_the_replicas(data):
    task = make_task(data)
    rows = tf.range(60)

    def items(replicas, step):
        parts = [
            task.train.pairs(rows, share(replica, replicas, step))
            for replica in range(replicas)
        ]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    for one, three in zip(items(1, 4), items(3, 4), strict=True):
        np.testing.assert_array_equal(one, three)
    assert (items(1, 4)[1] != items(1, 5)[1]).any()


# ----------------------------------------------------------------------------- ranking


def ranked(candidates, logits):
    """Loss, hit and gain of one user."""
    totals = ratings_task.ranking_totals(
        tf.constant([candidates]), tf.constant([logits], tf.float32)
    )
    return totals.numpy().tolist()


@pytest.mark.parametrize("rank", [1, 2, 10, 11])
def test_hit_and_gain_of_a_rank(rank):
    candidates = [50, *range(20)]
    logits = [0.0] + [1.0] * (rank - 1) + [-1.0] * (21 - rank)
    _, hit, gain = ranked(candidates, logits)
    assert hit == (rank <= 10)
    assert gain == pytest.approx((rank <= 10) / np.log2(rank + 1), rel=1e-6)


def test_item_drawn_twice_counts_once():
    # Ten better candidates, two of them one item: nine are ahead.
    candidates = [50, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 20]
    _, hit, gain = ranked(candidates, [0.0] + [1.0] * 10 + [-1.0])
    assert (hit, gain) == (1.0, pytest.approx(1 / np.log2(11), rel=1e-6))
    losses = [np.log1p(np.exp(x)) for x in [0.0] + [1.0] * 9 + [-1.0]]
    assert ranked(candidates, [0.0] + [1.0] * 10 + [-1.0])[0] == pytest.approx(
        np.mean(losses), rel=1e-5
    )


@pytest.mark.parametrize("logit", [0.0, np.nan])
def test_equal_scores_and_no_scores_are_no_hit(logit):
    assert ranked([50, *range(20)], [logit] * 21)[1:] == [0.0, 0.0]


@pytest.mark.parametrize("replicas", [1, 3])
def test_all_users_are_ranked_once(data, replicas, monkeypatch):
    monkeypatch.setattr(ratings_task, "EVALUATION_USERS", 5)
    task = make_task(data)
    strategy = strategy_of(replicas)
    with strategy.scope():
        model, optimizer = task.new_model(), make_optimizer(Configuration(**SETTINGS))
    trainer = Trainer(strategy, model, optimizer, task.train, batch_size=60)
    hits = gains = 0
    for user in range(12):
        others = sorted(set(data.test_negatives[user].tolist()))
        users = tf.fill([1 + len(others)], user)
        scores = model(users, tf.constant([data.test_items[user], *others])).numpy()
        rank = 1 + (scores[1:] >= scores[0]).sum()
        hits += rank <= 10
        gains += (rank <= 10) / np.log2(rank + 1)
    score = trainer.evaluate(task.test)
    assert score.hit_rate_at_10 == pytest.approx(hits / 12)
    assert score.ndcg_at_10 == pytest.approx(gains / 12, rel=1e-5)


# ------------------------------------------------------------------------------- a run


# Keras 3.15 asks numpy 2 for an array in the old way when it saves.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Converting sparse IndexedSlices:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize(
    "compression", [{}, {"compressor": "topk", "density": 0.1, "topk_scope": "model"}]
)
def test_two_tastes_are_learnt(data, compression, tmp_path):
    settings = {"train_iterations": 150, "check_interval": 75, "learning_rate": 0.01}
    configuration = Configuration(
        **SETTINGS | settings | compression | {"logdir": str(tmp_path)}
    )
    strategy = strategy_of(2)
    run = experiment.Experiment(configuration, strategy, data, results.Stopwatch())
    run.run()
    written = json.loads((tmp_path / "result.json").read_text())
    jsonschema.validate(written, json.loads(SCHEMA_PATH.read_text()))
    # A user's taste leaves 15 of some 40 unrated items of it and all of the other, so
    # that one who knows the taste finds the item among ten of about 30: 0.6. One who
    # does not has 0.2 or less.
    assert written["test"]["hit_rate_at_10"] > 0.3
    assert written["data"]["test"] == 12


def test_no_more_users_are_evaluated_than_asked_for(data):
    whole, task = make_task(data), make_task(data, evaluation_examples=5)
    assert (task.validation.examples, task.test.examples) == (5, 5)
    assert task.train.examples == whole.train.examples
    model = whole.new_model()
    sums = task.test.totals(model, share()).numpy()
    first = share(0, 12)  # Of twelve users one each.
    each = [
        whole.test.totals(model, first._replace(replica=tf.constant(i))).numpy()
        for i in range(5)
    ]
    np.testing.assert_allclose(sums, np.sum(each, axis=0), rtol=1e-5)
