"""The lines that TensorFlow writes to stderr for itself, told from a program's.

Those of its C++ have one of four forms:

    I0000 00:00:1795784650.325266   15230 port.cc:153] oneDNN custom operations are on.
    2026-11-27 13:03:20.123456: I tensorflow/core/util/port.cc:153] oneDNN custom ...
    WARNING: All log messages before absl::InitializeLog() is called are written to ...
    To enable the following instructions: AVX2 FMA, in other operations, rebuild ...

The first is absl's, with a date of 0000 and seconds since 1970 until its logging is
set up; the second is from before TensorFlow used absl. The last stands for all lines
that go on with the line before; errors of collectives have most of them. Those are
TensorFlow's only behind another line of its own: the message of a Python exception has
the same ones.

What Python logs has other forms (`train.py:30] loss 0.1`, `WARNING:tensorflow:...`) and
is for the user, but for one warning: a MirroredStrategy gives it at its first step
outside a tf.function, as making a model or a metric takes one, however one trains.
"""

import re

BEGINNING = re.compile(
    r"""
    (?:
        (?P<absl>[IWEF])\d{4}[ ]\d\d:\d\d:\d+\.\d+[ ]+\d+[ ]
        | \d{4}-\d\d-\d\d[ ]\d\d:\d\d:\d\d\.\d+:[ ](?P<older>[IWEF])[ ]
    )
    [\w./+-]+\.(?:cc|cpp|cu|h|hpp|inc):\d+\](?:[ ]|$)
    """,
    re.VERBOSE,
)
BEFORE_LOGGING = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to "
    "STDERR"
)
EAGERLY = re.compile(
    r"WARNING:tensorflow:Using \w+Strategy eagerly has significant overhead currently\."
)
CONTINUATION = re.compile(
    r"""
    To\ enable\ the\ following\ instructions:\ .+\ rebuild\ TensorFlow\ with\ the
    | /job:\w+(?:/replica:\d+)?/task:\d+$
    | The\ tasks\ have\ crashed\.\ Check\ the\ task\ logs\ for\ an\ earlier\ error
    | Additional\ GRPC\ error\ information\ from\ remote\ target\ /job:
    | :\w+:Error\ received\ from\ peer\ 
    | The\ error\ could\ be\ from\ a\ previous\ operation\.\ Restart\ your\ program
    | \t\ \[\[\{\{node\ 
    """,
    re.VERBOSE,
)


class LogLines:
    """Recognises TensorFlow's own lines in one stream, of which it sees every line.

    Example:

    ```python
    >>> lines = LogLines()
    >>> lines.recognise("I0000 00:00:1795784650.325266   15230 port.cc:153] oneDNN on.")
    True
    >>> lines.recognise("Mine, of the form of port.cc:153] oneDNN on.")
    False

    ```
    """

    def __init__(self):
        self._within = False  # Whether the line before was TensorFlow's.

    def recognise(self, line: str) -> bool:
        """Whether the stream's next line is TensorFlow's; a fatal error counts as not.

        A program that is about to be aborted says why in a line of severity F.
        """
        if beginning := BEGINNING.match(line):
            self._within = "F" not in beginning.groups()
        elif line == BEFORE_LOGGING or EAGERLY.match(line):
            self._within = True
        else:
            self._within = self._within and CONTINUATION.match(line) is not None
        return self._within
