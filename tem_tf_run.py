"""The launcher's way in: the command `tem-tf-run`, and `python -m tem_tf_run`.

The launcher, `tem_tf/launch`, needs the standard library alone. Imported as
`tem_tf.launch` its parent would come first, and with it TensorFlow: seconds and some
hundred megabytes for a process that only waits. So it is loaded without a parent.
"""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from types import ModuleType


def main() -> int:
    """Runs the launcher on the command line's arguments; returns its exit code."""
    return load_part("launch").local.main(sys.argv[1:])


def load_part(name: str) -> ModuleType:
    """A part of tem_tf that needs the standard library alone, without its parent.

    Args:
        name: Of a file or folder in tem_tf, as "cluster". The module is another than
            `tem_tf.NAME`, and so are its classes.

    Raises:
        ModuleNotFoundError: tem_tf is not installed.
    """
    own_name = f"tem_tf_{name}"
    if own_name in sys.modules:
        return sys.modules[own_name]
    plugin = importlib.util.find_spec("tem_tf")  # Found, not imported.
    if plugin is None or plugin.origin is None:
        raise ModuleNotFoundError("No module named 'tem_tf'", name="tem_tf")
    path = pathlib.Path(plugin.origin).with_name(name)
    folder = [str(path)] if path.is_dir() else None
    path = path / "__init__.py" if folder else path.with_suffix(".py")
    spec = importlib.util.spec_from_file_location(
        own_name, path, submodule_search_locations=folder
    )
    assert spec is not None and spec.loader is not None  # For the type checker.
    part = sys.modules[own_name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(part)
    return part


if __name__ == "__main__":
    sys.exit(main())
