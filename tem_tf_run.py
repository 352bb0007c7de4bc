"""The launcher's way in: the command `tem-tf-run`, and `python -m tem_tf_run`.

The launcher, `tem_tf/launch`, needs the standard library alone. Imported as
`tem_tf.launch` its parent would come first, and with it TensorFlow: seconds and some
hundred megabytes for a process that only waits. So it is loaded from its folder, as a
package without a parent.
"""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from types import ModuleType


def main() -> int:
    """Runs the launcher on the command line's arguments; returns its exit code."""
    return _launcher().local.main(sys.argv[1:])


def _launcher() -> ModuleType:
    plugin = importlib.util.find_spec("tem_tf")  # Found, not imported.
    if plugin is None or plugin.origin is None:
        raise ModuleNotFoundError("The package tem_tf is not beside tem_tf_run.py.")
    folder = pathlib.Path(plugin.origin).with_name("launch")
    spec = importlib.util.spec_from_file_location(
        "tem_tf_launch",
        folder / "__init__.py",
        submodule_search_locations=[str(folder)],
    )
    assert spec is not None and spec.loader is not None  # For the type checker.
    launcher = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launcher)
    return launcher


if __name__ == "__main__":
    sys.exit(main())
