"""What is said where a package of the extra `studies` is not installed."""

from __future__ import annotations

import importlib.util

# Packages that are imported under another name than they are installed.
_INSTALLED_AS = {
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
}


def require(*modules: str) -> None:
    """Raises if a module is missing: at the start of what needs it hours later.

    Raises:
        ModuleNotFoundError: naming the first that is.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)


def in_words(error: BaseException) -> str:
    """An error as one line for the user.

    Args:
        error: What was raised; if it was raised from a ModuleNotFoundError, that one
            counts.

    >>> in_words(ModuleNotFoundError(name="sklearn.datasets"))
    'The package scikit-learn is missing. Run pip install scikit-learn.'
    >>> in_words(ValueError("`seed` must be an integer."))
    '`seed` must be an integer.'
    """
    cause = error if isinstance(error, ModuleNotFoundError) else error.__cause__
    if not isinstance(cause, ModuleNotFoundError) or cause.name is None:
        return str(error)
    module = cause.name.partition(".")[0]
    package = _INSTALLED_AS.get(module, module)
    return f"The package {package} is missing. Run pip install {package}."
