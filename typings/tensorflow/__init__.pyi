# The TensorFlow stubs that pyright brings along know a fraction of TensorFlow and take
# every shape for unknown: two thirds of what they report here are not errors.
from typing import Any

def __getattr__(name: str) -> Any: ...
