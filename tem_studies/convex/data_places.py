"""Where two-class data is: looked for, not read.

This file imports neither TensorFlow nor numpy, so that missing data is named at once.
"""

from __future__ import annotations

from pathlib import Path

from tem_studies.refusal import Refusal

FASHION, MADE_UP = "fashion-mnist", "made-up"
NAMES = ("gisette", "madelon", "breast-cancer", FASHION, MADE_UP)
# The files of these data sets as the LIBSVM collection names them. scikit-learn reads
# the compressed ones too.
_LIBSVM_NAMES = {
    "gisette": ("gisette_scale", "gisette"),
    "madelon": ("madelon", "madelon_train"),
}
_ENDINGS = ("", ".bz2", ".gz", ".txt", ".libsvm")


def locate(datasource: str, path_data: str | None) -> Path | None:
    """Finds a data set.

    Args:
        datasource: One of `NAMES`, or the path of a LIBSVM file.
        path_data: Directory with the files of gisette, madelon and Fashion-MNIST.

    Returns:
        Its file or folder; None if it needs none.

    Raises:
        Refusal: it is not there; the message says where it was looked for.
    """
    if datasource in (MADE_UP, "breast-cancer"):
        return None
    if datasource == FASHION:
        return _fashion_mnist(path_data)
    if datasource in _LIBSVM_NAMES:
        return _libsvm(datasource, path_data)
    if Path(datasource).is_file():
        return Path(datasource)
    raise Refusal(
        f"`datasource` must be one of {', '.join(NAMES)} or the path of a LIBSVM file. "
        f"Received: datasource={datasource!r}, and there is no such file."
    )


def _libsvm(datasource: str, path_data: str | None) -> Path:
    if path_data is None:
        raise Refusal(
            f"`datasource` {datasource} needs its LIBSVM file. Pass --path_data DIR "
            f"where DIR holds {_LIBSVM_NAMES[datasource][0]}, or the file's path as "
            "--datasource."
        )
    for name in _LIBSVM_NAMES[datasource]:
        for ending in _ENDINGS:
            if (Path(path_data) / (name + ending)).is_file():
                return Path(path_data) / (name + ending)
    raise Refusal(
        f"There is no {' or '.join(_LIBSVM_NAMES[datasource])} (plain, .bz2 or .gz) in "
        f"{path_data}. Three ways on: put the file of the LIBSVM collection there; "
        "pass a file's path as --datasource; or choose breast-cancer or made-up, which "
        "need no files."
    )


def _fashion_mnist(path_data: str | None) -> Path:
    folder = Path(path_data or ".") / "Fashion-MNIST"
    if path_data is None or not folder.is_dir():
        raise Refusal(
            "`datasource` fashion-mnist needs its files. Pass --path_data DIR where "
            f"DIR holds Fashion-MNIST. Received: path_data={path_data!r}."
        )
    return folder
