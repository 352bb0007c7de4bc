"""Where the data of each task is: looked for, not read.

This file imports neither TensorFlow nor numpy, so that missing data is named at once.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tem_studies.refusal import Refusal, refusing
from tem_studies.workloads import prepared_data
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.workload_settings import NPZ

# Data source -> folder below --path_data, as in the DPS authors' layout.
IMAGE_FOLDERS = {
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "cifar-10": "cifar-10-batches-py",
    "cifar-100": "cifar-100-python",
}
# The same of text (WikiText-2 as it is shipped), and how its files are named.
TEXT_LAYOUTS = {
    "wikitext-2": ("wikitext-2", "wiki.{}.tokens"),
    "tokens": ("", "{}.tokens"),
}
TEXT_SPLITS = ("train", "valid", "test")
# What nanoGPT calls a text of characters.
CHARACTERS_NAME = "input.txt"
# The same of ratings, as GroupLens's archives unpack.
RATINGS_FOLDERS = {
    "movielens-20m": "ml-20m",
    "movielens-1m": "ml-1m",
    "movielens-small": "ml-latest-small",
}


@dataclasses.dataclass(frozen=True)
class Source:
    """A data source that has been found but not read.

    Attributes:
        datasource: Its name.
        kind: "scikit-learn", "files", "prepared" or "download". The last two need
            TensorFlow.
        place: The folder, or the address of a download.
    """

    datasource: str
    kind: str
    place: str

    @property
    def needs_tensorflow(self) -> bool:
        """Whether reading it runs TensorFlow, so that the strategy must come first."""
        return self.kind in ("prepared", "download")


def locate(configuration: Configuration) -> Source:
    """Finds the data of a run; at most a few seconds.

    Raises:
        Refusal: it is nowhere. The message says where it was looked for.
    """
    look = {
        "images": locate_images,
        "text": locate_text,
        "characters": locate_characters,
        "ratings": locate_ratings,
    }
    with refusing(OSError):  # Of a folder that may not be searched.
        return look[configuration.kind](
            configuration.datasource, configuration.path_data
        )


def locate_images(datasource: str, path_data: str | None) -> Source:
    """Finds a data source without reading it; at most a few seconds, no TensorFlow.

    Looks in `path_data`, then for a directory that tensorflow-datasets has prepared,
    then whether it could be downloaded.

    Args:
        datasource: "digits", "mnist", "fashion-mnist", "cifar-10", "cifar-100" or
            "npz".
        path_data: A folder with MNIST/, Fashion-MNIST/, cifar-10-batches-py/ or
            cifar-100-python/ in it, or None; of "npz" the file.

    Raises:
        Refusal: it is nowhere. The message says where it was looked for.
    """
    if datasource == NPZ:
        return locate_own(path_data)
    _require_directory(path_data)
    if datasource == "digits":
        return Source(datasource, "scikit-learn", "scikit-learn")
    folder = IMAGE_FOLDERS[datasource]
    looked = []
    if path_data is None:
        looked.append("--path_data was not given")
    else:
        place = Path(path_data) / folder
        if place.is_dir():
            return Source(datasource, "files", str(place))
        looked.append(f"there is no {place}")
    prepared = prepared_data.find_prepared(datasource)
    if prepared is not None:
        return Source(datasource, "prepared", str(prepared))
    name, address = prepared_data.CATALOGUE[datasource]
    looked.append(f"nothing is prepared in {prepared_data.directory() / name}")
    if prepared_data.is_reachable(datasource):
        return Source(datasource, "download", address)
    looked.append(f"{address} cannot be reached")
    raise Refusal(
        f"The data of `datasource` {datasource} was not found: {'; '.join(looked)}. "
        f"Three ways on: pass --path_data DIR where DIR/{folder} holds its files; set "
        "TFDS_DATA_DIR to a directory in which tensorflow-datasets has prepared "
        f"{name}; or choose another --datasource (digits needs no files)."
    )


def locate_own(path_data: str | None) -> Source:
    """Finds a user's own file of arrays.

    Raises:
        Refusal: there is none.
    """
    if path_data is None or not Path(path_data).is_file():
        raise Refusal(
            "`datasource` npz needs `path_data`, a file as np.savez writes it. "
            f"Received: path_data={path_data!r}. Pass --path_data FILE.npz, with "
            "x_train, y_train, x_test and y_test in it."
        )
    return Source(NPZ, "files", path_data)


def locate_text(datasource: str, path_data: str | None) -> Source:
    """Finds the three files of a text.

    Args:
        datasource: "wikitext-2": `wikitext-2/wiki.{train,valid,test}.tokens` in
            `path_data`; "tokens": `{train,valid,test}.tokens` in `path_data` itself.
        path_data: A directory.

    Raises:
        Refusal: a file is missing.
    """
    folder, name = TEXT_LAYOUTS[datasource]
    files = ", ".join(str(Path(folder) / name.format(split)) for split in TEXT_SPLITS)
    if path_data is None:
        raise Refusal(
            f"`datasource` {datasource} needs `path_data`. Received: path_data=None. "
            f"Pass --path_data DIR where DIR holds {files}."
        )
    place = Path(path_data) / folder
    for split in TEXT_SPLITS:
        path = place / name.format(split)
        if not path.is_file():
            raise Refusal(
                f"{path} is missing. `datasource` {datasource} needs {files} in "
                f"`path_data`. Received: path_data={path_data!r}."
            )
    return Source(datasource, "files", str(place))


def locate_characters(datasource: str, path_data: str | None) -> Source:
    """Finds a file of text.

    Args:
        datasource: "text".
        path_data: The file, or a directory with input.txt or no other .txt in it.

    Raises:
        Refusal: it is missing, or there are several.
    """
    advice = f"Pass --path_data FILE, or DIR where DIR holds {CHARACTERS_NAME}."
    if path_data is None:
        raise Refusal(
            f"`datasource` {datasource} needs `path_data`. Received: path_data=None. "
            f"{advice}"
        )
    place = Path(path_data)
    if place.is_dir():
        found = sorted(place.glob("*.txt"))
        named = [path for path in found if path.name == CHARACTERS_NAME]
        found = [path for path in named or found if path.is_file()]
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "no .txt file"
            raise Refusal(
                f"`path_data` must hold {CHARACTERS_NAME} or one other .txt file. "
                f"Received: path_data={path_data!r} with {names}."
            )
        (place,) = found
    if not place.is_file():
        raise Refusal(
            "`path_data` must be a file of text or a directory with one. Received: "
            f"path_data={path_data!r}, where there is none. {advice}"
        )
    return Source(datasource, "files", str(place))


def locate_ratings(datasource: str, path_data: str | None) -> Source:
    """Finds `ratings.csv` or `ratings.dat`, or what tensorflow-datasets has or can get.

    Args:
        datasource: "movielens-20m", "movielens-1m" or "movielens-small".
        path_data: A directory with ml-20m/, ml-1m/ or ml-latest-small/ in it, or None.

    Raises:
        Refusal: the ratings are nowhere.
    """
    folder = RATINGS_FOLDERS[datasource]
    _require_directory(path_data)
    if path_data is not None:
        for name in ("ratings.csv", "ratings.dat"):
            path = Path(path_data) / folder / name
            if path.is_file():
                return Source(datasource, "files", str(path))
    prepared = prepared_data.find_prepared(datasource)
    if prepared is not None:
        return Source(datasource, "prepared", str(prepared))
    if prepared_data.is_reachable(datasource):
        return Source(datasource, "download", prepared_data.CATALOGUE[datasource][1])
    raise Refusal(
        f"The ratings of `datasource` {datasource} were not found. Received: path_data="
        f"{path_data!r}. Pass --path_data DIR where DIR/{folder} holds ratings.csv or "
        "ratings.dat, or set TFDS_DATA_DIR to a directory in which tensorflow-datasets "
        f"has prepared {prepared_data.CATALOGUE[datasource][0]}."
    )


def _require_directory(path_data: str | None) -> None:
    if path_data is not None and not Path(path_data).is_dir():
        raise Refusal(
            f"`path_data` must be a directory. Received: path_data={path_data!r}."
        )
