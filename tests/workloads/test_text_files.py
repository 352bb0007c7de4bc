"""Texts are read word by word; a file that is wrong is named with its line."""

import re

import numpy as np
import pytest

from tem_studies.refusal import Refusal
from tem_studies.workloads import data_places, text_files

TEXTS = {
    "train": " The cat sat \n\n on <unk> mats \n",
    "valid": "the CAT\n",
    "test": "on the dog\nsat",
}


@pytest.fixture
def write(tmp_path):
    """Writes the three files, with changes; returns their directory."""

    def write_them(name="{}.tokens", **texts):
        for split, text in (TEXTS | texts).items():
            content = text if isinstance(text, bytes) else text.encode()
            (tmp_path / name.format(split)).write_bytes(content)
        return tmp_path

    return write_them


def load(path, datasource="tokens"):
    """Locates and loads."""
    return text_files.load(data_places.locate_text(datasource, str(path)))


def test_words_are_lowered_and_numbered_in_their_order(write):
    data = load(write())
    assert data.words == ("the", "cat", "sat", "<eos>", "on", "<unk>", "mats")
    np.testing.assert_array_equal(data.train, [0, 1, 2, 3, 3, 4, 5, 6, 3])
    np.testing.assert_array_equal(data.validation, [0, 1, 3])
    # "dog" is not in the training text; the last line has no end.
    np.testing.assert_array_equal(data.test, [4, 0, 5, 3, 2, 3])
    assert data.train.dtype == data.test.dtype == np.int32


def test_wikitext_2_has_a_folder_and_names_of_its_own(write, tmp_path):
    (tmp_path / "wikitext-2").mkdir()
    for split, text in TEXTS.items():
        (tmp_path / "wikitext-2" / f"wiki.{split}.tokens").write_text(text)
    data = load(tmp_path, "wikitext-2")
    assert data.place == str(tmp_path / "wikitext-2")
    np.testing.assert_array_equal(data.validation, [0, 1, 3])


def test_digest_tells_texts_apart(write):
    digests = [load(write(valid=text)).digest() for text in ("cat", "cat", "mats")]
    assert digests[0] == digests[1] != digests[2]


def test_data_without_a_path_is_refused():
    message = (
        "`datasource` wikitext-2 needs `path_data`. Received: path_data=None. Pass "
        "--path_data DIR where DIR holds wikitext-2/wiki.train.tokens, "
        "wikitext-2/wiki.valid.tokens, wikitext-2/wiki.test.tokens."
    )
    with pytest.raises(Refusal, match=f"^{re.escape(message)}$"):
        data_places.locate_text("wikitext-2", None)


def test_missing_file_is_named(write):
    path = write()
    (path / "valid.tokens").unlink()
    message = (
        f"{path / 'valid.tokens'} is missing. `datasource` tokens needs train.tokens, "
        f"valid.tokens, test.tokens in `path_data`. Received: path_data={str(path)!r}."
    )
    with pytest.raises(Refusal, match=f"^{re.escape(message)}$"):
        load(path)


def test_line_that_is_no_utf_8_is_named(write):
    path = write(valid=b"the\ncat \xff\n")
    message = f"{path / 'valid.tokens'} must be UTF-8. Received: byte 0xff in line 2."
    with pytest.raises(Refusal, match=f"^{re.escape(message)}$"):
        load(path)


@pytest.mark.parametrize("split", TEXTS)
def test_empty_text_is_refused(write, split):
    path = write(**{split: " \n\n"})
    message = f"{path / split}.tokens must hold words. Received: an empty text."
    with pytest.raises(Refusal, match=f"^{re.escape(message)}$"):
        load(path)


def test_strange_word_is_refused_where_nothing_stands_for_it(write):
    path = write(train="the cat\n", valid="the\nthe dog and\n", test="cat")
    message = (
        f"Every word of {path / 'valid.tokens'} must be one of the training text, "
        "which has no <unk> to stand for others. Received: 'dog' in line 2 (2 words in "
        "all). "
        "Replace rare words of all three files by <unk>."
    )
    with pytest.raises(Refusal, match=f"^{re.escape(message)}$"):
        load(path)


def test_shakespeare_is_what_it_is(data_dir):
    data = load(data_dir / "shakespeare")
    # Words and ends of lines, as wc counts them.
    assert len(data.train) == 994_522 + 124_463
    assert len(data.validation) == 74_803 + 9_733
    assert len(data.test) == 100_082 + 12_373
