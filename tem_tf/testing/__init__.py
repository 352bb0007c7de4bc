"""Checks for compressors and memories of your own.

    tem_tf.testing.check_compressor(Own())
    tem_tf.testing.check_memory(OwnMemory())

They need no test runner. What is checked: `COMPRESSOR_LAWS`, `MEMORY_LAWS`, by name.
"""

from tem_tf.testing.compressors import COMPRESSOR_LAWS, check_compressor
from tem_tf.testing.memories import MEMORY_LAWS, check_memory

__all__ = ["COMPRESSOR_LAWS", "MEMORY_LAWS", "check_compressor", "check_memory"]
