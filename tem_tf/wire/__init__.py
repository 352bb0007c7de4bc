"""What travels between workers: messages as words, and the sum of what has arrived.

`encode` and `decode` are for messages of entries (`format`), `frame` and `open_frame`
for those with a body of their own (`frames`), and `sum_payloads` is for all that a
gather brings (`sums`). docs/wire-format.md has it byte by byte.
"""

from tem_tf.wire.format import Payload, decode, encode, rounded, words_of
from tem_tf.wire.frames import Frame, frame, open_frame
from tem_tf.wire.header import (
    EMPTY,
    ENTRIES,
    GREATEST_KIND,
    HEADER_WORDS,
    MAGIC,
    NONFINITE,
    VERSION,
)
from tem_tf.wire.index_codes import ALL, BITMAP, GAPS, SHARED
from tem_tf.wire.sums import Summed, sum_payloads
from tem_tf.wire.value_types import VALUE_DTYPES

__all__ = [
    "ALL",
    "BITMAP",
    "EMPTY",
    "ENTRIES",
    "GAPS",
    "GREATEST_KIND",
    "HEADER_WORDS",
    "MAGIC",
    "NONFINITE",
    "SHARED",
    "VALUE_DTYPES",
    "VERSION",
    "Frame",
    "Payload",
    "Summed",
    "decode",
    "encode",
    "frame",
    "open_frame",
    "rounded",
    "sum_payloads",
    "words_of",
]
