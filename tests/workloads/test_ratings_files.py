"""MovieLens files are read and split by the protocol; wrong ones are named by line."""

import re

import numpy as np
import pytest

from tem_studies.refusal import Refusal
from tem_studies.workloads import data_places, ratings_files
from tem_studies.workloads.ratings_files import Ratings

HEADER = "userId,movieId,rating,timestamp"


def table(users=3, each=22, items=200, seed=0):
    """Rows (user, item, rating, time): users 7, 8, …, items of even numbers."""
    generator = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        for item in generator.permutation(items)[:each]:
            rows.append((7 + user, 2 * int(item), 3.5, int(generator.integers(1000))))
    return rows


def write(path, rows, folder="ml-latest-small", form="csv"):
    """Writes ratings as GroupLens does; returns the file."""
    (path / folder).mkdir(parents=True, exist_ok=True)
    file = path / folder / f"ratings.{form}"
    separator = "," if form == "csv" else "::"
    lines = [separator.join(map(str, row)) for row in rows]
    file.write_text("\n".join([HEADER, *lines] if form == "csv" else lines) + "\n")
    return file


def load(path, datasource="movielens-small"):
    """Locates and loads."""
    return ratings_files.load(data_places.locate_ratings(datasource, str(path)))


@pytest.fixture
def nothing_prepared(monkeypatch, tmp_path):
    """No prepared data and a proxy at a port where nothing listens."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("datasource", "folder", "form"),
    [
        ("movielens-20m", "ml-20m", "csv"),
        ("movielens-1m", "ml-1m", "dat"),
        ("movielens-small", "ml-latest-small", "csv"),
    ],
)
def test_last_of_each_user_is_for_the_test(tmp_path, datasource, folder, form):
    rows = table()
    write(tmp_path, rows, folder, form)
    data = load(tmp_path, datasource)
    assert data.users == 3
    numbers = {item: i for i, item in enumerate(sorted({row[1] for row in rows}))}
    assert data.items == len(numbers)
    for user in range(3):
        # Of one time the larger item is the later one.
        mine = sorted((time, item) for u, item, _, time in rows if u == 7 + user)
        want = [numbers[item] for _, item in mine]
        trained = data.train_items[data.train_users == user]
        assert trained.tolist() == want[:-2]
        assert data.validation_items[user] == want[-2]
        assert data.test_items[user] == want[-1]
    assert data.train_items.dtype == data.train_users.dtype == np.int32


def test_negatives_are_unrated_items_drawn_uniformly(tmp_path):
    rows = table(users=50, each=60, items=100)
    write(tmp_path, rows)
    data = load(tmp_path)
    numbers = {item: i for i, item in enumerate(sorted({row[1] for row in rows}))}
    counts = np.zeros(data.items)
    for negatives in (data.validation_negatives, data.test_negatives):
        assert negatives.shape == (50, 100)
        for user, drawn in enumerate(negatives):
            rated = {numbers[item] for u, item, *_ in rows if u == 7 + user}
            assert not rated & set(drawn.tolist())
            assert (np.diff(drawn) >= 0).all()
            counts += np.bincount(drawn, minlength=data.items)
    # Each user's 2·100 draws are shared by the items not rated; five deviations.
    unrated = np.zeros(data.items)
    for user in range(50):
        free = np.ones(data.items)
        free[[numbers[item] for u, item, *_ in rows if u == 7 + user]] = 0
        unrated += 2 * 100 * free / free.sum()
    assert (np.abs(counts - unrated) < 5 * np.sqrt(unrated) + 1).all()
    assert (data.validation_negatives != data.test_negatives).any()
    again = load(tmp_path)
    np.testing.assert_array_equal(again.test_negatives, data.test_negatives)
    assert again.digest() == data.digest()


def test_users_with_fewer_than_20_ratings_are_left_out(tmp_path):
    few = [(1, 2 * i, 5, i) for i in range(19)] + [(2, 10_000, 1, 1)]
    rows = table()
    write(tmp_path, few + rows)
    data = load(tmp_path)
    assert data.users == 3
    assert data.items == len({row[1] for row in rows})


def test_only_users_of_one_rating_are_refused(tmp_path):
    path = write(tmp_path, [(user, user, 4.0, 1) for user in range(30)])
    message = (
        f"{path} must have a user with at least 20 ratings. Received: 30 users, 1 "
        "ratings of one at most."
    )
    with pytest.raises(Refusal, match=f"^{re.escape(message)}$"):
        load(tmp_path)


@pytest.mark.parametrize(("form", "line"), [("csv", (3, 70)), ("dat", (2, 69))])
def test_pair_that_stands_twice_is_refused(tmp_path, form, line):
    rows = table()
    user, item, *_ = rows[1]
    path = write(
        tmp_path, [*rows, (7, 1, 1, 1), (8, 1, 1, 1), (user, item, 2, 9)], form=form
    )
    message = (
        f"{path} must have a user and an item together once. Received: user {user} and "
        f"item {item} in line {line[0]} and line {line[1]}."
    )
    with pytest.raises(Refusal, match=f"^{re.escape(message)}$"):
        load(tmp_path)


def test_user_who_has_rated_everything_is_refused(tmp_path):
    path = write(tmp_path, table(users=2, each=30, items=30))
    message = (
        f"Every user in {path} must have left an item unrated, to be drawn against "
        "those held out. Received: a user with all 30 items."
    )
    with pytest.raises(Refusal, match=f"^{re.escape(message)}$"):
        load(tmp_path)


@pytest.mark.parametrize(
    "wrong", ["7,two,3.5,9", "7,2,3.5", "7,2,3.5,9,1", "7,2,,9", "1.5,2,3.5,9", "word"]
)
@pytest.mark.parametrize("form", ["csv", "dat"])
def test_line_that_is_wrong_is_named(tmp_path, wrong, form):
    rows = [*table()[:5], tuple(wrong.split(",")), *table()[6:]]
    path = write(tmp_path, rows, form=form)
    number = 7 if form == "csv" else 6
    pattern = HEADER if form == "csv" else HEADER.replace(",", "::")
    message = (
        f"Every line of {path} must be {pattern}, whole numbers but for the rating. "
        f"Received in line {number}: {wrong!r}."
    )
    with pytest.raises(Refusal, match=f"^{re.escape(message)}$"):
        load(tmp_path)


@pytest.mark.parametrize("form", ["csv", "dat"])
def test_empty_lines_are_counted_where_a_line_is_named(tmp_path, form):
    rows = table()
    path = write(tmp_path, rows, form=form)
    lines = path.read_text().splitlines()
    number = 30
    lines[10:10] = ["", ""]
    path.write_text("\r\n".join([*lines, "", ""]))
    assert load(tmp_path).users == 3
    path.write_text("\n".join([*lines, lines[number - 1]]) + "\n")
    words = f"in line {number} and line {len(lines) + 1}."
    with pytest.raises(Refusal, match=f"{re.escape(words)}$"):
        load(tmp_path)
    lines[number - 1] = "word"
    path.write_text("\n".join(lines))
    with pytest.raises(Refusal, match=f"Received in line {number}: 'word'.$"):
        load(tmp_path)


def test_csv_without_its_header_is_refused(tmp_path):
    path = write(tmp_path, table())
    path.write_text("7,2,3.5,9\n")
    message = (
        f"{path} must begin with the line {HEADER}. Received in line 1: '7,2,3.5,9'."
    )
    with pytest.raises(Refusal, match=f"^{re.escape(message)}$"):
        load(tmp_path)


@pytest.mark.filterwarnings("ignore:loadtxt:UserWarning")
@pytest.mark.parametrize("form", ["csv", "dat"])
def test_file_without_ratings_is_refused(tmp_path, form):
    path = write(tmp_path, [], form=form)
    path.write_text(HEADER + "\n" if form == "csv" else "")
    with pytest.raises(Refusal, match="must hold ratings. Received: none."):
        load(tmp_path)


def test_missing_ratings_name_the_ways_on(nothing_prepared, tmp_path):
    message = (
        "The ratings of `datasource` movielens-1m were not found. Received: path_data="
        f"{str(tmp_path)!r}. Pass --path_data DIR where DIR/ml-1m holds ratings.csv or "
        "ratings.dat, or set TFDS_DATA_DIR to a directory in which tensorflow-datasets "
        "has prepared movielens/1m-ratings."
    )
    with pytest.raises(Refusal, match=f"^{re.escape(message)}$"):
        data_places.locate_ratings("movielens-1m", str(tmp_path))


def test_path_data_that_does_not_exist_is_refused():
    message = "`path_data` must be a directory. Received: path_data='/nowhere'."
    with pytest.raises(Refusal, match=re.escape(message)):
        data_places.locate_ratings("movielens-1m", "/nowhere")


def test_ratings_of_other_readers_say_which_one_is_twice():
    ones = np.ones(21, np.int64)
    items = np.arange(21) % 20
    with pytest.raises(Refusal, match="item 0 in rating 1 and rating 21"):
        ratings_files.split(Ratings(ones, items, np.arange(21), "here"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # tensorflow-datasets and its dependencies warn
def test_prepared_ratings_are_read(monkeypatch, tmp_path):
    import tensorflow_datasets as tfds

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    rows = table()
    tfds.dataset_builders.store_as_tfds_dataset(
        name="movielens",
        config="1m-ratings",
        version="0.1.1",
        data_dir=str(tmp_path),
        split_datasets={
            "train": [
                (
                    i,
                    {
                        "user_id": str(user),
                        "movie_id": str(item),
                        "user_rating": rating,
                        "timestamp": time,
                    },
                )
                for i, (user, item, rating, time) in enumerate(rows)
            ]
        },
        features=tfds.features.FeaturesDict(
            {
                "user_id": np.str_,
                "movie_id": np.str_,
                "user_rating": np.float32,
                "timestamp": np.int64,
            }
        ),
    )
    source = data_places.locate_ratings("movielens-1m", None)
    assert source.needs_tensorflow
    data = ratings_files.load(source)
    write(tmp_path, rows)
    assert data.digest() == load(tmp_path).digest()


def test_movielens_latest_small_is_what_it_is(data_dir):
    data = load(data_dir)
    # Of its own README: 100,004 ratings of 671 users on 9,066 rated movies.
    assert (data.users, data.items) == (671, 9066)
    assert len(data.train_items) == 100_004 - 2 * 671
