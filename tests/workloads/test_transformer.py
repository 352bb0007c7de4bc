"""The network of characters: its size, and what a prediction is made from."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tem_studies.workloads.transformer import Transformer

CHARACTERS, CONTEXT = 11, 8
SIZES = {"context": CONTEXT, "layers": 2, "heads": 2, "features": 12}
TEXT = np.random.default_rng(0).integers(0, CHARACTERS, (3, CONTEXT)).astype(np.int32)


@pytest.fixture
def model():
    """A small one whose weights show."""
    model = Transformer(CHARACTERS, **SIZES)
    generator = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(generator.normal(0, 0.5, variable.shape).astype(np.float32))
    return model


def logits(model, text):
    """Of the next characters, by numpy in float64, place by place."""
    weights = {
        v.path.removeprefix("gpt/"): v.numpy().astype(float) for v in model.variables
    }
    embedding, places = weights["embedding"], weights["places"]
    each = SIZES["features"] // SIZES["heads"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
        return x / deviation * weights[f"{name}norm/gamma"]

    def attention(x, block):
        asked = x @ weights[f"{block}queries_keys_values/kernel"]
        queries, keys, values = np.split(asked, 3, axis=-1)
        found = np.zeros_like(x)
        for head in range(SIZES["heads"]):
            part = slice(each * head, each * (head + 1))
            for place in range(len(x)):
                seen = slice(0, place + 1)
                scores = keys[seen, part] @ queries[place, part] / np.sqrt(each)
                odds = np.exp(scores - scores.max())
                found[place, part] = odds / odds.sum() @ values[seen, part]
        return found @ weights[f"{block}joined/kernel"]

    def dense(x, block):
        x = x @ weights[f"{block}wide/kernel"]
        erf = tf.math.erf(x / np.sqrt(2)).numpy()
        return x * (1 + erf) / 2 @ weights[f"{block}narrow/kernel"]

    results = []
    for stretch in text:
        x = embedding[stretch] + places[: len(stretch)]
        for i in range(SIZES["layers"]):
            block = f"block_{i + 1}_"
            x = x + attention(norm(x, f"{block}attention_"), block)
            x = x + dense(norm(x, f"{block}dense_"), block)
        results.append(norm(x, "") @ embedding.T)
    return np.array(results)


def test_default_network_has_nanogpts_number_of_parameters():
    model = Transformer(65)
    # Theirs says "0.80M", and leaves out the places: 64 · 128.
    assert model.count_params() == 804_096
    assert not model.non_trainable_variables


@pytest.mark.parametrize("length", [1, 5, CONTEXT])
def test_network_follows_its_equations(model, length):
    text = TEXT[:, :length]
    want = logits(model, text)
    assert want.std() > 0.5
    # float32 against float64, through 14 products.
    np.testing.assert_allclose(model(text), want, rtol=1e-3, atol=1e-3)


def test_later_character_does_not_change_earlier_logits(model):
    before = model(TEXT).numpy()
    changed = TEXT.copy()
    changed[:, 5] = (changed[:, 5] + 1) % CHARACTERS
    after = model(changed).numpy()
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).any(axis=-1).all()


def test_embedding_is_the_heads_matrix(model):
    """A character that is nowhere in the text has a row there all the same."""
    text = np.zeros((1, CONTEXT), np.int32)
    (embedding,) = [v for v in model.variables if v.name == "embedding"]
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(model(text)[..., 1])
    gradient = tape.gradient(total, embedding.value)
    rows = np.flatnonzero(tf.convert_to_tensor(gradient).numpy().any(axis=1))
    np.testing.assert_array_equal(rows, [0, 1])
    assert {v.shape for v in model.variables if CHARACTERS in v.shape} == {
        (CHARACTERS, SIZES["features"])
    }


def test_initial_values_are_gpt_2s():
    model = Transformer(500, 100, 8, 4, 96)
    for variable in model.trainable_variables:
        values = variable.numpy()
        if variable.name == "gamma":
            np.testing.assert_array_equal(values, 1)
            continue
        is_last = "joined" in variable.path or "narrow" in variable.path
        # Of 9,000 draws or more the deviation is known to a few per cent.
        want = 0.02 / 4 if is_last else 0.02
        assert values.std() == pytest.approx(want, rel=0.05)


def test_seed_draws_the_weights():
    first, same, other = (
        Transformer(CHARACTERS, **SIZES, seed=seed).trainable_variables
        for seed in (1, 1, 2)
    )
    for a, b, c in zip(first, same, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.name == "gamma" or (a.numpy() != c.numpy()).all()


def test_paths_of_variables_differ():
    """By which masks, residuals and results are known."""
    variables = Transformer(CHARACTERS, **SIZES).trainable_variables
    assert len({v.path for v in variables}) == len(variables) == 2 + 2 * 6 + 1


def test_dropout_is_where_it_should_be(monkeypatch):
    seen = []

    def spy(x, rate, seed):
        seen.append((tuple(x.shape), rate, tuple(seed.numpy())))
        return x

    monkeypatch.setattr(tf.nn.experimental, "stateless_dropout", spy)
    model = Transformer(CHARACTERS, **SIZES, dropout=0.4)
    model(TEXT, tf.constant([1, 2]))
    x, weights = (3, CONTEXT, 12), (3, 2, CONTEXT, CONTEXT)
    assert [shape for shape, *_ in seen] == [x, *(2 * [weights, x, x])]
    assert len({seed for *_, seed in seen}) == 7
    assert {rate for _, rate, _ in seen} == {0.4}
    model(TEXT)  # an evaluation
    assert len(seen) == 7


# Keras 3.15 asks numpy 2 for an array in the old way when it saves.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_weights_are_saved_and_loaded(model, tmp_path):
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    other = Transformer(CHARACTERS, **SIZES, seed=5)
    other.load_weights(path)
    np.testing.assert_array_equal(model(TEXT), other(TEXT))
    assert isinstance(other, keras.Model)
