from pathlib import Path

import pytest

from training.brown import Document, read_corpus, split_documents


def _read(folder: Path, *lines: str) -> list[list[str]]:
    """Return the words of each sentence of a corpus whose only file has these lines."""
    (folder / "cats.txt").write_text("ca01 news\n")
    (folder / "ca01").write_text("\n\n\t" + "\n".join(lines))
    (document,) = read_corpus(folder)
    return [[word.text for word in sentence] for sentence in document.sentences]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Ivan/np Allen/np Jr./np ./.", ["Ivan", "Allen", "Jr."]),
        ("Why/wrb ?/. ?/.", ["Why", "?"]),
        ("Far/rb from/in it/ppo ;/. ;/.", ["Far", "from", "it", ";"]),
        ("``/`` Yes/rb ''/'' ,/, he/pps said/vbd ./.", ["``", "Yes", ",", "''", "he", "said", "."]),
        ("``/`` Why/wrb ''/'' ?/. ?/.", ["``", "Why", "?", "''"]),
        ("``/`` Jr./np ''/'' ./.", ["``", "Jr.", "''"]),
        ("a/at '/' pro/nn '/' or/cc '/' con/nn '/'", ["a", "`", "pro", "'", "or", "`", "con", "'"]),
        ("and/or/cc 1/2/cd", ["and/or", "1/2"]),
        ("that/cs that/dt had/hvd had/hvn", ["that", "that", "had", "had"]),
    ],
)
def test_a_sentence_is_read_as_it_was_printed(tmp_path: Path, line: str, words: list[str]) -> None:
    assert _read(tmp_path, line) == [words]


@pytest.mark.parametrize("line", ["is/bez made/nil", "the/at **ya/nn particle/nn", "at/in 43*0C./nn"])
def test_a_sentence_without_tags_or_with_codes_is_left_out(tmp_path: Path, line: str) -> None:
    assert _read(tmp_path, line, "Yes/rb ./.") == [["Yes", "."]]


def test_blank_lines_are_between_paragraphs(tmp_path: Path) -> None:
    (tmp_path / "cats.txt").write_text("ca01 news\n")
    (tmp_path / "ca01").write_text("\n\n\tYes/rb ./.\nNo/rb ./.\n\n\n\tis/bez made/nil\n\n\n\tOh/uh !/.\n")
    (document,) = read_corpus(tmp_path)
    words = [[[word.text for word in sentence] for sentence in paragraph] for paragraph in document.paragraphs]
    assert words == [[["Yes", "."], ["No", "."]], [["Oh", "!"]]]
    assert len(document.sentences) == 3


def test_a_folder_without_the_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"cats\.txt"):
        read_corpus(tmp_path)


def test_the_split_is_by_document() -> None:
    documents = [Document(name=f"c{index:03}", genre="news", paragraphs=()) for index in range(500)]
    split = split_documents(documents)
    assert [len(side) for side in (split.train, split.dev, split.test)] == [400, 50, 50]
    assert sorted(document.name for side in (split.train, split.dev, split.test) for document in side) == [
        document.name for document in documents
    ]
