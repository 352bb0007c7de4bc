"""A user's own script on real workers: who writes, a second strategy, and its end.

The cluster comes from a resolver, so that nothing can rely on TF_CONFIG.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tem_tf.launch.worker_processes import reserve_ports
from tests.multi_worker import start_laws as laws

pytestmark = pytest.mark.multi_worker
ROOT = pathlib.Path(__file__).parents[2]
END_SECONDS = 30  # After SIGTERM; a step takes milliseconds, TensorFlow's notice 10 s.

SCRIPT = """
import sys
import keras, numpy as np, tensorflow as tf
import tem_tf

index, addresses = int(sys.argv[1]), sys.argv[2:]
resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
    tf.train.ClusterSpec({"worker": addresses}), "", "worker", index, rpc_layer="grpc"
)
strategies = [tem_tf.MultiWorkerMirroredStrategy(resolver) for _ in range(2)]
strategy = strategies[1]
print("chief", tem_tf.is_chief(), tem_tf.is_chief(strategy), flush=True)
with strategy.scope():
    assert tem_tf.is_chief() == (index == 0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    model.compile(
        tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(0.01), tem_tf.HardThreshold(0.01)
        ),
        loss="mse",
    )

class Say(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 5:
            print("training", flush=True)

data = tf.data.Dataset.from_tensors((np.ones((8, 4)), np.ones((8, 3)))).repeat()
model.fit(data, steps_per_epoch=10**6, verbose=0, callbacks=[Say()])
"""


def test_a_resolvers_workers_train_and_sigterm_ends_them_all():
    addresses = [f"127.0.0.1:{port}" for port in reserve_ports(2)]
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(index), *addresses],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        said = [[worker.stdout.readline() for _ in range(2)] for worker in workers]
        assert said == [
            ["chief True True\n", "training\n"],
            ["chief False False\n", "training\n"],
        ]
        began = time.monotonic()
        workers[1].terminate()
        codes = [worker.wait(END_SECONDS) for worker in workers]
        assert codes[1] == -signal.SIGTERM
        assert codes[0] != 0
        assert time.monotonic() - began < END_SECONDS
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


@pytest.mark.parametrize(
    "make",
    [laws.sgd, laws.accumulating, laws.local, laws.adamw],
    ids=lambda make: make.__name__,
)
def test_building_sends_no_more_for_a_deeper_network(two_workers, make):
    """Each broadcast is several round trips, one after another."""
    few, many = (
        two_workers.run(laws.broadcasts_of_build, make, layers) for layers in (1, 4)
    )
    for found in (few, many):
        assert found[0] == found[1]
    assert few[0][0] == many[0][0] <= 3


@pytest.mark.parametrize("make", [laws.drawn_memory, laws.drawn_slots])
def test_what_workers_may_draw_for_themselves_is_sent(two_workers, make):
    found = two_workers.run(laws.broadcasts_of_build, make, 2)
    assert found[0] == found[1]
    assert found[0][0] >= 4
