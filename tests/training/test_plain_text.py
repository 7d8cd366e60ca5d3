import random

import pytest
from tokenizers import Tokenizer

from training.batches import batches_by_length
from training.brown import Document, Word
from training.examples import encode_texts, texts_of, varied_texts
from training.plain_text import AS_PRINTED, Case, Style, text_from_words
from training.tags import TAGS
from training.tokenizer import train_tokenizer

_WORDS = [
    *[
        Word("``", "."),
        Word("He", "PRON"),
        Word("didn't", "VERB"),
        Word(",", "."),
        Word("''", "."),
        Word("she", "PRON"),
    ],
    *[Word("said", "VERB"), Word("--", "."), Word("(", "."), Word("1/4''", "NOUN"), Word(")", "."), Word(".", ".")],
]


@pytest.mark.parametrize(
    ("style", "text"),
    [
        (AS_PRINTED, '"He didn\'t," she said -- (1/4").'),
        (Style(typographic=True), "“He didn’t,” she said — (1/4”)."),
        (Style(case=Case.LOWER), '"he didn\'t," she said -- (1/4").'),
        (Style(case=Case.UPPER, final_stop=False), '"HE DIDN\'T," SHE SAID -- (1/4")'),
        (Style(case=Case.TITLE), '"He Didn\'t," She Said -- (1/4").'),
    ],
)
def test_words_become_running_text(style: Style, text: str) -> None:
    assert text_from_words(_WORDS, style=style).text == text


def test_every_word_is_found_at_its_place() -> None:
    tagged = text_from_words(_WORDS)
    places = [tagged.text[start:end] for start, end in zip(tagged.starts, tagged.ends, strict=True)]
    assert places == ['"', "He", "didn't", ",", '"', "she", "said", "--", "(", '1/4"', ")", "."]
    assert tagged.tags == tuple(word.tag for word in _WORDS)


def test_a_lone_full_stop_stays() -> None:
    assert text_from_words([Word(".", ".")], style=Style(final_stop=False)).text == "."


@pytest.fixture
def rng() -> random.Random:
    return random.Random(1)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([text_from_words(_WORDS).text] * 3, vocabulary_size=280)


def test_no_token_holds_two_marks(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(text_from_words(_WORDS).text, add_special_tokens=False).tokens
    assert all(sum(character in "\"',.()/" for character in token) <= 1 for token in tokens)
    assert "Ġ(" in tokens


def test_every_token_has_the_tag_of_its_word(tokenizer: Tokenizer) -> None:
    (example,) = encode_texts(tokenizer, [text_from_words(_WORDS)])
    first_labels = [label for label, first in zip(example.labels, example.is_first, strict=True) if first]
    assert [TAGS[label] for label in first_labels] == [word.tag for word in _WORDS]
    tags_by_token = dict(zip(tokenizer.encode(text_from_words(_WORDS).text).tokens, example.labels, strict=True))
    assert TAGS[tags_by_token["'t"]] == "VERB"  # continues "didn"
    assert tags_by_token["<s>"] == tags_by_token["</s>"] == -100


def test_spaces_alone_have_no_label(tokenizer: Tokenizer) -> None:
    tagged = text_from_words([Word("a", "DET"), Word("“", ".")])
    (example,) = encode_texts(tokenizer, [tagged])
    assert sum(example.is_first) == 2


def test_passages_hold_every_sentence_once(rng: random.Random) -> None:
    sentences = tuple((Word(f"word{index}", "NOUN"), Word(".", ".")) for index in range(100))
    document = Document(name="ca01", genre="news", paragraphs=(sentences,))
    assert [len(text.tags) for text in texts_of([document], sentences=30)] == [60, 60, 60, 20]
    varied = varied_texts([document], rng=rng)
    words = " ".join(text.text for text in varied).lower().replace(".", "").split()
    assert words == [f"word{index}" for index in range(100)]
    assert len({len(text.tags) for text in varied}) > 2
    assert len({text.text.endswith(".") for text in varied}) == 2


def test_batches_hold_every_example_once_and_keep_the_limit(tokenizer: Tokenizer, rng: random.Random) -> None:
    sentences = tuple(tuple(_WORDS[:length]) for length in range(1, 13)) * 4
    examples = encode_texts(tokenizer, texts_of([Document(name="ca01", genre="news", paragraphs=(sentences,))]))
    groups = batches_by_length(examples, max_tokens=60, rng=rng)
    assert sorted(id(example) for group in groups for example in group) == sorted(map(id, examples))
    assert all(len(group) * max(len(example.token_ids) for example in group) <= 60 for group in groups)
