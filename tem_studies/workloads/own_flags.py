"""The flags of compressors that users bring by name."""

from __future__ import annotations

from tem_studies.flag_row import FlagRow

OWN_FLAGS: tuple[FlagRow, ...] = (
    FlagRow(
        "compressor_arguments",
        str,
        None,
        "Of --compressor module:Class, a tem_tf.Compressor of your own, found in the "
        "working directory or installed: its arguments as key=value, values as in JSON "
        "or else texts. --compare and --compressors take such names, too; there "
        "Class.key=value is for that class alone.",
        takes_several=True,
    ),
)
