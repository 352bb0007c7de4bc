"""Text for language models: three files of words, read into numbers.

A file holds words between blanks; every end of a line is the word <eos>, upper case is
lowered. Words are numbered in the order in which the training text first has them.
"""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path

import numpy as np

from tem_studies.refusal import Refusal, reading
from tem_studies.workloads.data_places import TEXT_LAYOUTS, TEXT_SPLITS, Source

END_OF_LINE, UNKNOWN = "<eos>", "<unk>"


@dataclasses.dataclass(frozen=True)
class TextData:
    """A text in three parts.

    Attributes:
        train, validation, test: int32 (n,), numbers of words.
        words: The vocabulary; a word's number is its position.
        place: Where the text came from.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    words: tuple[str, ...]
    place: str

    def digest(self) -> int:
        """A checksum (CRC-32) of the whole text, to compare workers."""
        checksum = zlib.crc32("\n".join(self.words).encode())
        for part in (self.train, self.validation, self.test):
            checksum = zlib.crc32(part, checksum)
        return checksum


def load(source: Source) -> TextData:
    """Reads the three files of a text.

    Raises:
        Refusal: a file is empty or no UTF-8, or has a word that the training text
            lacks, naming file and line.
    """
    name = TEXT_LAYOUTS[source.datasource][1]
    paths = [Path(source.place) / name.format(split) for split in TEXT_SPLITS]
    lines = [_lines(path) for path in paths]
    numbers: dict[str, int] = {}
    train = [
        numbers.setdefault(word, len(numbers)) for line in lines[0] for word in line
    ]
    validation, test = (
        _encoded(path, part, numbers)
        for path, part in zip(paths[1:], lines[1:], strict=True)
    )
    return TextData(
        np.array(train, np.int32), validation, test, tuple(numbers), source.place
    )


def _lines(path: Path) -> list[list[str]]:
    """The words of each line, <eos> last."""
    with reading(path):
        content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Refusal(
            f"{path} must be UTF-8. Received: byte {content[error.start]:#04x} in line "
            f"{line}."
        ) from error
    if not text.strip():
        raise Refusal(f"{path} must hold words. Received: an empty text.")
    # Of a file that ends with a line's end nothing comes after it.
    lines = text.removesuffix("\n").split("\n")
    return [[*line.lower().split(), END_OF_LINE] for line in lines]


def _encoded(path: Path, lines: list[list[str]], numbers: dict[str, int]) -> np.ndarray:
    """A text in the numbers of the training text: int32 (n,).

    A word that the training text lacks is <unk> if the training text has that word.
    """
    unknown = numbers.get(UNKNOWN)
    if unknown is None:
        strange = [
            (number, word)
            for number, line in enumerate(lines, start=1)
            for word in line
            if word not in numbers
        ]
        if strange:
            number, word = strange[0]
            raise Refusal(
                f"Every word of {path} must be one of the training text, which has no "
                f"{UNKNOWN} to stand for others. Received: {word!r} in line {number} "
                f"({len(strange)} words in all). Replace rare words of all three files "
                f"by {UNKNOWN}."
            )
    found = [numbers.get(word, unknown) for line in lines for word in line]
    return np.array(found, np.int32)
