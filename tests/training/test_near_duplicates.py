import random

from training.near_duplicates import groups_of_similar


def _groups(texts: list[str], topics: list[str | None] | None = None) -> list[list[int]]:
    return groups_of_similar(
        range(len(texts)),
        text_of=lambda index: texts[index],
        topic_of=lambda index: topics[index] if topics else None,
    )


def _words(count: int, *, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("abcdefghij", k=6)) for _ in range(count)]


def test_texts_that_share_most_runs_of_words_are_one_group() -> None:
    text, other = _words(60, seed=1), _words(60, seed=2)
    changed = [*text[:20], "new", *text[21:]]
    cut = text[:40]
    assert _groups([" ".join(words) for words in (text, other, changed, cut)]) == [[0, 2, 3], [1]]


def test_digits_marks_and_case_are_no_difference() -> None:
    words = _words(30, seed=1)
    assert _groups([" ".join(words), " 77 ".join(word.upper() for word in words)]) == [[0, 1]]


def test_a_chain_joins_and_a_topic_joins_but_none_is_no_topic() -> None:
    texts = [" ".join(_words(30, seed=seed)) for seed in range(4)]
    texts.append(f"{texts[0]} {texts[1]}")
    assert _groups(texts, ["a", None, "b", None, "b"]) == [[0, 1, 2, 4], [3]]


def test_a_footer_that_many_texts_have_joins_none() -> None:
    footer = " ".join(_words(60, seed=0))
    texts = [f"{' '.join(_words(20, seed=seed))} {footer}" for seed in range(1, 31)]
    assert len(_groups(texts)) == 30
    assert len(_groups(texts[:3])) == 1
