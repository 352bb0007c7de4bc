r"""A GPT of characters on several machines that hardly talk to one another.

    tem-tf-run --workers 4 --max_restarts 3 -- python train.py input.txt run

Every worker takes ten steps of AdamW by itself; then all exchange how far their weights
have moved, in two bits an entry: 0.23 bits per weight and step, where gradients in
float32 take 32. A killed training goes on from its last checkpoint in `run`, to the
same bits. input.txt is any text, as of tiny Shakespeare; with four workers 2,000 steps
end at a validation loss of about 1.6.
"""

import argparse
import pathlib

import keras
import numpy as np
import tensorflow as tf

import tem_tf

LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 4, 4, 128, 64, 12  # BATCH of each worker.


def read(path):
    """Characters as numbers: nine tenths to train on, one to validate, and how many."""
    text = np.frombuffer(pathlib.Path(path).read_bytes(), np.uint8)
    symbols, numbers = np.unique(text, return_inverse=True)
    end = int(0.9 * len(numbers))
    return numbers[:end].astype("int32"), numbers[end:].astype("int32"), len(symbols)


def build_model(symbols):
    """A decoder of so many symbols: attention and two dense layers, four times."""
    layers = keras.layers
    characters = keras.Input((CONTEXT,), dtype="int32")
    places = layers.Embedding(CONTEXT, WIDTH)(tf.range(CONTEXT)[None])
    x = layers.Embedding(symbols, WIDTH)(characters) + places
    for _ in range(LAYERS):
        normed = layers.LayerNormalization()(x)
        attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS)
        x = x + attention(normed, normed, use_causal_mask=True)
        wide = layers.Dense(4 * WIDTH, "gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(WIDTH)(wide)
    x = layers.LayerNormalization()(x)
    return keras.Model(characters, layers.Dense(symbols)(x))


def windows(text, starts):
    """Stretches of a text, and the same one character later."""
    parts = tf.gather(text, starts[:, None] + tf.range(CONTEXT + 1))
    return parts[:, :-1], parts[:, 1:]


def sharded(arrays, batch):
    """Batches of all workers together, of which each takes its share."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    dataset = tf.data.Dataset.from_tensor_slices(arrays).batch(batch, True)
    return dataset.with_options(options)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("text")
parser.add_argument("directory", help="of checkpoints; all workers see it")
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--epochs", type=int, default=4)
arguments = parser.parse_args()

strategy = tem_tf.MultiWorkerMirroredStrategy()  # First: here the workers meet.
keras.utils.set_random_seed(0)
train, validation, symbols = read(arguments.text)
steps = arguments.steps // arguments.epochs  # Of an epoch.
batch = BATCH * strategy.num_replicas_in_sync

warm_up = arguments.steps // 20
schedule = keras.optimizers.schedules.CosineDecay(
    0.0,
    arguments.steps - warm_up,
    alpha=0.1,
    warmup_target=4e-3,
    warmup_steps=warm_up,
)
with strategy.scope():
    model = build_model(symbols)
    model.compile(
        tem_tf.LocalUpdates(
            keras.optimizers.AdamW(schedule, weight_decay=0.1, global_clipnorm=1.0),
            keras.optimizers.SGD(0.9, momentum=0.6, nesterov=True),
            local_steps=10,
            compressor=tem_tf.AllEntries(),
            value_dtype="int2",
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

checkpoint = tem_tf.Checkpoint(pathlib.Path(arguments.directory, "checkpoints"), 100)


def make_dataset(epoch):
    """The same batches for the same epoch, on all workers."""
    # An epoch is a tensor here, so that its number is no part of a graph.
    starts = tf.random.stateless_uniform(
        [steps * batch], [0, epoch], maxval=len(train) - CONTEXT, dtype=tf.int32
    )
    return sharded(windows(train, starts), batch)


held_out = tf.range(0, len(validation) - CONTEXT, CONTEXT)
history = model.fit(
    checkpoint.data(make_dataset),
    epochs=arguments.epochs,
    validation_data=sharded(windows(validation, held_out), batch),
    callbacks=[checkpoint],
    shuffle=False,
    verbose=2 if tem_tf.is_chief() else 0,
)
sent = model.optimizer.communication_summary()  # Of all workers, so on all of them.
if tem_tf.is_chief():
    digest = tf.strings.to_hash_bucket_fast(
        tf.io.serialize_tensor(
            tf.concat([tf.reshape(v, [-1]) for v in model.trainable_variables], 0)
        ),
        1 << 62,
    )
    bits = 8 * sent["payload_bytes"] / sent["replicas"] / arguments.steps
    print(
        f"validation loss {history.history['val_loss'][-1]:.4f}, "
        f"{bits / model.count_params():.3f} bits per weight and step, "
        f"weights {digest.numpy():016x}"
    )
