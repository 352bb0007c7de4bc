"""What is said where a package of the extra `studies` is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from tem_studies.refusal import Refusal

# Packages that are imported under another name than they are installed.
_INSTALLED_AS = {
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
}
_OURS = ("tem_studies", "tem_tf", "tem_tf_run")


def require(*modules: str) -> None:
    """Raises if a module is missing: at the start of what needs it hours later.

    Raises:
        Refusal: naming the first that is.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise Refusal(_missing(module))


@contextmanager
def importing() -> Iterator[None]:
    """A block of imports, in which a package that cannot be imported is a refusal.

    A name that our own packages lack is not: that is a fault of theirs.

    Raises:
        Refusal: a package is missing, or does not work as it is installed.

    >>> with importing():
    ...     raise ModuleNotFoundError(name="sklearn.datasets")
    Traceback (most recent call last):
    tem_studies.refusal.Refusal: The package scikit-learn is missing. Run pip install \
scikit-learn.
    """
    try:
        yield
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        if name in _OURS:
            raise
        is_missing = isinstance(error, ModuleNotFoundError) and name
        raise Refusal(_missing(name) if is_missing else str(error)) from error


def _missing(module: str) -> str:
    package = _INSTALLED_AS.get(module, module)
    return f"The package {package} is missing. Run pip install {package}."
