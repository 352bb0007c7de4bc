"""What each of several real workers trains in test_workloads.py."""

import keras
import numpy as np

import tem_tf
from tem_studies.workloads import ratings_files, ratings_task, text_task
from tem_studies.workloads.batches import DeviceSplit
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.data_sources import Split
from tem_studies.workloads.ratings_files import Ratings
from tem_studies.workloads.replicas import refuse_on_all_workers
from tem_studies.workloads.text_files import TextData
from tem_studies.workloads.training import Trainer
from tem_tf.strategy import is_chief
from tests.workloads.files import examples

STEPS, BATCH = 4, 12


def normed_images(strategy):
    """Moving statistics before and after they are averaged, and both scores."""
    keras.utils.set_random_seed(0)
    split = DeviceSplit(
        Split(*examples(60, (8, 8, 1))), np.float32([120]), np.float32([70])
    )
    with strategy.scope():
        inputs = keras.Input((8, 8, 1))
        x = keras.layers.BatchNormalization(momentum=0.5)(inputs)
        model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))
        optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(0.05), tem_tf.TopK(density=0.5)
        )
    trainer = Trainer(strategy, model, optimizer, split, BATCH, running_mean_period=9)
    trainer.compile()
    rows = np.random.default_rng(0).permutation(60)[: STEPS * BATCH].astype(np.int32)
    for row in rows.reshape(STEPS, 1, BATCH):
        trainer.run(row)

    def statistics():
        return np.concatenate([v.numpy() for v in model.non_trainable_variables])

    before = statistics()
    score = trainer.evaluate(split)
    after = statistics()
    mean = trainer.evaluate_running_mean(split)
    return {
        "before": before,
        "after": after,
        "scores": (*score, *mean),
        "weights": _flat(model.trainable_variables),
        "restored": statistics(),
    }


def refused(strategy, by_chief):
    """What each worker says where the chief, or another alone, has a refusal."""
    refusal = "not here" if is_chief() == by_chief else None
    try:
        refuse_on_all_workers(strategy, refusal)
    except ValueError as error:
        return str(error)
    return ""


def language(strategy):
    """Weights and score of a small language model after a few windows."""
    text = np.random.default_rng(0).integers(0, 9, 400).astype(np.int32)
    data = TextData(text, text[:50], text[:50], tuple("abcdefghi"), "here")
    configuration = Configuration(
        arch="lstm",
        datasource="tokens",
        target_sparsity=0.0,
        batch_size=BATCH,
        bptt=5,
        lstm_layers=2,
        lstm_units=6,
        dropout=0.0,
    )
    return _trained(strategy, text_task.TextTask(configuration, data))


def recommender(strategy):
    """Weights and score of NeuMF after a few batches."""
    generator = np.random.default_rng(0)
    items = np.concatenate([generator.permutation(60)[:22] for _ in range(9)])
    users, times = np.repeat(np.arange(9), 22), np.arange(9 * 22)
    data = ratings_files.split(Ratings(users, items, times, "here"))
    configuration = Configuration(
        arch="neumf",
        datasource="movielens-1m",
        target_sparsity=0.0,
        batch_size=BATCH,
        dropout=0.0,
    )
    return _trained(strategy, ratings_task.RatingsTask(configuration, data))


def _trained(strategy, task):
    with strategy.scope():
        model = task.new_model()
        optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(1.0), tem_tf.Identity(), local_clipnorm=100.0
        )
    trainer = Trainer(strategy, model, optimizer, task.train, BATCH)
    trainer.compile()
    for _ in range(STEPS):
        trainer.run(task.take(1))
    return {
        "loss": trainer.read_meters().loss,
        "scores": tuple(trainer.evaluate(task.validation)),
        "weights": _flat(model.trainable_variables),
    }


def _flat(variables):
    return np.concatenate([variable.numpy().ravel() for variable in variables])
