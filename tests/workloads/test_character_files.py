"""A text is read character by character; a file that is wrong is named."""

import re

import numpy as np
import pytest

from tem_studies.refusal import Refusal
from tem_studies.workloads import character_files, data_places

TEXT = "Ça va ? Oui, ça va.\r\nΩ 😀\n"  # 25 characters of one to four bytes.


@pytest.fixture
def file(tmp_path):
    """A file with the text."""
    path = tmp_path / "input.txt"
    path.write_bytes(TEXT.encode())
    return path


def load(path):
    """Locates and loads."""
    return character_files.load(data_places.locate_characters("text", str(path)))


def test_nine_tenths_train_and_the_rest_validates(file):
    data = load(file)
    assert len(data.train) == 22
    read = [data.characters[i] for i in (*data.train, *data.validation)]
    assert "".join(read) == TEXT
    assert data.train.dtype == data.validation.dtype == np.int32
    assert data.place == str(file)


def test_vocabulary_is_the_texts_characters_in_their_order(file):
    assert load(file).characters == "".join(sorted(set(TEXT)))


def test_folder_stands_for_its_text(file):
    assert load(file.parent).place == str(file)
    other = file.rename(file.with_name("play.txt"))
    assert load(file.parent).place == str(other)
    file.write_text("x" * 30)  # input.txt comes before any other one.
    assert load(file.parent).place == str(file)


def test_digest_tells_texts_apart(file):
    digests = []
    for text in (TEXT, TEXT, TEXT[::-1], TEXT.replace("Ω", "Ψ")):
        file.write_bytes(text.encode())
        digests.append(load(file).digest())
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


ADVICE = "Pass --path_data FILE, or DIR where DIR holds input.txt."


def refused(message, path):
    """Whether the text there is refused so."""
    with pytest.raises(Refusal, match=f"^{re.escape(message)}$"):
        character_files.load(data_places.locate_characters("text", path))


def test_text_without_a_path_is_refused():
    message = "`datasource` text needs `path_data`. Received: path_data=None. "
    refused(message + ADVICE, None)


def test_missing_file_is_named(tmp_path):
    path = str(tmp_path / "play.txt")
    message = (
        "`path_data` must be a file of text or a directory with one. Received: "
        f"path_data={path!r}, where there is none. {ADVICE}"
    )
    refused(message, path)


@pytest.mark.parametrize(
    ("names", "words"), [((), "no .txt file"), (("b.txt", "a.txt"), "a.txt, b.txt")]
)
def test_folder_without_one_text_is_refused(tmp_path, names, words):
    for name in names:
        (tmp_path / name).write_text(TEXT)
    message = (
        "`path_data` must hold input.txt or one other .txt file. Received: "
        f"path_data={str(tmp_path)!r} with {words}."
    )
    refused(message, str(tmp_path))


def test_line_that_is_no_utf_8_is_named(file):
    file.write_bytes(b"one\ntwo\nand \xff" + 30 * b"x")
    refused(f"{file} must be UTF-8. Received: byte 0xff in line 3.", str(file))


@pytest.mark.parametrize("length", [0, 19])
def test_short_text_is_refused(file, length):
    file.write_text("x" * length)
    message = (
        f"{file} must have at least 20 characters, as a tenth of them validates. "
        f"Received: {length}."
    )
    refused(message, str(file))
