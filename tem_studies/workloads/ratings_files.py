"""MovieLens: ratings as GroupLens ships them, split by leaving out each user's last.

Of each user with at least 20 ratings, in the order of time, the last item is for the
test, the one before it for validation, the others are what training calls positive.
Ratings of one time are in the order of the items' numbers. Each held-out item is ranked
among 100 drawn uniformly, with repetition, from the items that the user has not rated.
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tem_studies.refusal import Refusal, reading
from tem_studies.workloads import prepared_data
from tem_studies.workloads.data_places import Source

LEAST_RATINGS = 20  # of a user: the TEM authors', as in the MovieLens sets themselves
NEGATIVES = 100  # He et al., WWW 2017, arXiv 1708.05031, section 4.1
_HEADER = "userId,movieId,rating,timestamp"
_FIELDS = [("user", "i8"), ("item", "i8"), ("rating", "f8"), ("time", "i8")]


@dataclasses.dataclass(frozen=True)
class Ratings:
    """Who rated what, and when.

    Attributes:
        users, items: int64 (n,), any numbers.
        times: int64 (n,), seconds.
        place: Where they came from.
        line: From a position to the words that say where it is from.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    place: str
    line: Callable[[int], str] = lambda position: f"rating {position + 1}"


@dataclasses.dataclass(frozen=True)
class RatingsData:
    """Ratings in three parts; users and items are numbered from 0.

    Attributes:
        users, items: Their numbers.
        train_users, train_items: int32 (n,), the positive pairs of training.
        validation_items, test_items: int32 (users,), the items held out.
        validation_negatives, test_negatives: int32 (users, 100), each row sorted.
        place: Where the ratings came from.
    """

    users: int
    items: int
    train_users: np.ndarray
    train_items: np.ndarray
    validation_items: np.ndarray
    test_items: np.ndarray
    validation_negatives: np.ndarray
    test_negatives: np.ndarray
    place: str

    def digest(self) -> int:
        """A checksum (CRC-32) of all parts, to compare workers."""
        checksum = zlib.crc32(f"{self.users} {self.items}".encode())
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                checksum = zlib.crc32(value, checksum)
        return checksum


def load(source: Source) -> RatingsData:
    """Reads, checks and splits ratings.

    Raises:
        Refusal: naming the file and the line that is wrong, or what is missing.
    """
    if source.kind == "files":
        return split(read_ratings(Path(source.place)))
    prepared = Path(source.place)
    if source.kind == "download":
        prepared = prepared_data.download(source.datasource)
    users, items, times = prepared_data.read_ratings(prepared)
    return split(Ratings(users, items, times, source.place))


def read_ratings(path: Path) -> Ratings:
    """Reads `ratings.csv` (with its header) or `ratings.dat` (with `::`).

    Raises:
        Refusal: naming the first line that is wrong.
    """
    is_csv = path.suffix == ".csv"
    try:
        rows = np.loadtxt(
            _lines(path, is_csv),
            _FIELDS,
            delimiter=",",
            comments=None,
            ndmin=1,
        )
    except ValueError as error:
        raise Refusal(_first_wrong_line(path, is_csv) or f"{path}: {error}") from None
    if not len(rows):
        raise Refusal(f"{path} must hold ratings. Received: none.")

    def line(position: int) -> str:  # By a slow second look, for an error alone.
        number, _ = next(itertools.islice(_numbered(path, is_csv), position, None))
        return f"line {number}"

    return Ratings(rows["user"], rows["item"], rows["time"], str(path), line)


def _lines(path: Path, is_csv: bool) -> Iterator[str]:
    """Lines with commas between their fields, without the header."""
    with reading(path), path.open(encoding="utf-8", errors="replace") as file:
        if is_csv:
            header = next(file, "").strip()
            if header != _HEADER:
                raise Refusal(
                    f"{path} must begin with the line {_HEADER}. Received in line 1: "
                    f"{header[:60]!r}."
                )
            yield from file
        else:
            for line in file:
                yield line.replace("::", ",")


def _numbered(path: Path, is_csv: bool) -> Iterator[tuple[int, str]]:
    """The lines with their numbers in the file, but for empty ones, as numpy has it."""
    for number, line in enumerate(_lines(path, is_csv), start=2 if is_csv else 1):
        if line.strip("\r\n"):
            yield number, line


def _first_wrong_line(path: Path, is_csv: bool) -> str | None:
    """The message about the first line that cannot be read, by a slow second look."""
    try:
        for number, line in _numbered(path, is_csv):
            try:
                user, item, rating, time = line.split(",")
                int(user), int(item), float(rating), int(time)
            except ValueError:
                form = _HEADER if is_csv else _HEADER.replace(",", "::")
                return (
                    f"Every line of {path} must be {form}, whole numbers but for the "
                    f"rating. Received in line {number}: {line.strip()[:60]!r}."
                )
    except ValueError as error:  # of the header
        return str(error)
    return None


def split(ratings: Ratings) -> RatingsData:
    """Leaves out the last two items of each user, and draws what they compete with.

    The draws are the same for every run, whatever its seed, so that all are measured on
    the same candidates.

    Raises:
        Refusal: a pair stands twice; no user has enough ratings; a user has rated
            everything.
    """
    _, users, counts = np.unique(ratings.users, return_inverse=True, return_counts=True)
    enough = counts >= LEAST_RATINGS
    if not enough.any():
        raise Refusal(
            f"{ratings.place} must have a user with at least {LEAST_RATINGS} ratings. "
            f"Received: {len(counts)} users, {counts.max()} ratings of one at most."
        )
    kept = np.flatnonzero(enough[users])
    _, users = np.unique(users[kept], return_inverse=True)
    _, items = np.unique(ratings.items[kept], return_inverse=True)
    number_of_users, number_of_items = int(users.max()) + 1, int(items.max()) + 1
    seen = users * number_of_items + items
    order = np.argsort(seen, kind="stable")
    seen = seen[order]
    twice = np.flatnonzero(seen[1:] == seen[:-1])
    if len(twice):
        first, second = kept[order[twice[0]]], kept[order[twice[0] + 1]]
        raise Refusal(
            f"{ratings.place} must have a user and an item together once. Received: "
            f"user {ratings.users[first]} and item {ratings.items[first]} in "
            f"{ratings.line(first)} and {ratings.line(second)}."
        )
    order = np.lexsort((items, ratings.times[kept], users))
    users, items = users[order].astype(np.int32), items[order].astype(np.int32)
    last = np.flatnonzero(np.append(users[1:] != users[:-1], True))
    if np.diff(last, prepend=-1).max() == number_of_items:
        raise Refusal(
            f"Every user in {ratings.place} must have left an item unrated, to be "
            "drawn against those held out. Received: a user with all "
            f"{number_of_items} items."
        )
    training = np.ones(len(users), bool)
    training[last] = training[last - 1] = False
    generator, shape = np.random.default_rng(0), (number_of_users, number_of_items)
    return RatingsData(
        users=number_of_users,
        items=number_of_items,
        train_users=users[training],
        train_items=items[training],
        validation_items=items[last - 1],
        test_items=items[last],
        validation_negatives=_unrated(generator, *shape, seen),
        test_negatives=_unrated(generator, *shape, seen),
        place=ratings.place,
    )


def _unrated(
    generator: np.random.Generator, users: int, items: int, seen: np.ndarray
) -> np.ndarray:
    """Items that users have not rated: int32 (users, NEGATIVES), rows sorted.

    Args:
        generator: What draws.
        users: Their number.
        items: Their number.
        seen: Sorted user·items + item of all that was rated.
    """
    drawn = generator.integers(items, size=users * NEGATIVES)
    again = np.arange(len(drawn))
    while len(again):
        pairs = again // NEGATIVES * items + drawn[again]
        places = np.minimum(np.searchsorted(seen, pairs), len(seen) - 1)
        again = again[seen[places] == pairs]
        drawn[again] = generator.integers(items, size=len(again))
    return np.sort(drawn.reshape(users, NEGATIVES).astype(np.int32), axis=1)
