"""A text for language models of characters: one file of UTF-8, read into numbers.

The vocabulary is the text's characters in the order of Unicode. The first 90 % of the
text train, the rest validates; there is no test split. So does nanoGPT's preparation of
tiny Shakespeare.
"""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path

import numpy as np

from tem_studies.refusal import Refusal
from tem_studies.workloads.bounded_files import read_bytes
from tem_studies.workloads.data_places import Source

TRAINING_SHARE = 0.9
_SHORTEST = 20  # So that each part has two characters: one to read, one to predict.


@dataclasses.dataclass(frozen=True)
class CharacterData:
    """A text in two parts.

    Attributes:
        train, validation: int32 (n,), numbers of characters.
        characters: The vocabulary; a character's number is its position.
        place: Where the text came from.
    """

    train: np.ndarray
    validation: np.ndarray
    characters: str
    place: str

    def digest(self) -> int:
        """A checksum (CRC-32) of the whole text, to compare workers."""
        checksum = zlib.crc32(self.characters.encode())
        for part in (self.train, self.validation):
            checksum = zlib.crc32(part, checksum)
        return checksum


def load(source: Source) -> CharacterData:
    """Reads a text.

    Raises:
        Refusal: the file cannot be read, is no UTF-8, or too short to be split.
    """
    path = Path(source.place)
    content = read_bytes(path)
    try:
        # Unicode's numbers; ends of lines stay what they are.
        codes = np.frombuffer(content.decode().encode("utf-32-le"), np.uint32)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Refusal(
            f"{path} must be UTF-8. Received: byte {content[error.start]:#04x} in line "
            f"{line}."
        ) from error
    first = int(len(codes) * TRAINING_SHARE)
    if len(codes) < _SHORTEST:
        raise Refusal(
            f"{path} must have at least {_SHORTEST} characters, as a tenth of them "
            f"validates. Received: {len(codes)}."
        )
    vocabulary, numbers = np.unique(codes, return_inverse=True)
    numbers = numbers.astype(np.int32)
    characters = vocabulary.tobytes().decode("utf-32-le")
    return CharacterData(numbers[:first], numbers[first:], characters, source.place)
