import base64
import json
from pathlib import Path

import pytest

from training.mails import Mail, read_mails, split_mails

_FIVE_WORDS = "five words for a mail"


def _corpus(folder: Path, *sources: str) -> Path:
    """Make a corpus with these messages in easy-ham-1, and one message in every other group."""
    for group in ("easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2"):
        (folder / "data" / group).mkdir(parents=True)
        messages = sources if group == "easy-ham-1" else [f"Subject: {group}\n\nThis is the only message here."]
        for index, text in enumerate(messages):
            (folder / "data" / group / f"{index:05}.json").write_text(json.dumps({"text": text}))
    return folder


def _text(folder: Path, source: str) -> str:
    return next(mail.text for mail in read_mails(_corpus(folder, source)) if mail.name.startswith("easy-ham-1"))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("From: a@b.c\nSubject: Hello\n there\n\nHow are\n\n  you?\n", "Hello there How are you?"),
        (f"Subject: =?iso-8859-1?q?Caf=E9?=\n\n{_FIVE_WORDS}", f"Café {_FIVE_WORDS}"),
        (f"Subject: =?no-such-charset?q?a?=\n\n{_FIVE_WORDS}", f"=?no-such-charset?q?a?= {_FIVE_WORDS}"),
        (f"Subject: Re: x\n\n> their words\n  | and these\n{_FIVE_WORDS}", f"Re: x {_FIVE_WORDS}"),
        (f"Subject: x\n\n{_FIVE_WORDS} http://a.b/{'c' * 40}", f"x {_FIVE_WORDS}"),
        ("Subject: x\nContent-Type: text/html\n\n<style>p {}</style><p>Win &amp;<b> win</b> it</p>", "x Win & win it"),
        ("Subject: x\n\n<p>Win it all right now</p>", "x Win it all right now"),
        (
            ("Subject: x\nContent-Type: multipart/alternative; boundary=Q\n\n"
            "--Q\nContent-Type: text/html\n\n<b>html</b>\n--Q\nContent-Type: text/plain\n"
            f"Content-Transfer-Encoding: base64\n\n{base64.b64encode(_FIVE_WORDS.encode()).decode()}\n--Q--\n"),
            f"x {_FIVE_WORDS}",
        ),
    ],
    ids=["folded", "encoded", "unknown charset", "quoted", "long word", "html", "plain in name only", "parts"],
)  # fmt: skip
def test_a_mail_is_read_as_its_reader_sees_it(tmp_path: Path, source: str, text: str) -> None:
    assert _text(tmp_path, source) == text


def test_mails_that_cannot_be_read_and_equal_ones_are_left_out(tmp_path: Path) -> None:
    equal = f"Subject: x\n\n{_FIVE_WORDS}"
    mails = read_mails(_corpus(tmp_path, equal, "Subject: x\n\ntoo short", f"Subject: x\n\n{'ÆØÅ ' * 9}", equal))
    assert [mail.name for mail in mails if mail.name.startswith("easy-ham-1")] == ["easy-ham-1/00000"]
    assert [mail.name for mail in mails if mail.is_spam] == ["spam-1/00000", "spam-2/00000"]


def test_a_folder_without_the_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="data/easy-ham-1"):
        read_mails(tmp_path)


def _mails() -> list[Mail]:
    """Return 200 mails of different words in threads of four, and ten copies of a spam that differ in a number."""
    different = [
        Mail(
            name=f"ham/{i}", is_spam=False, subject=f"{'Re: ' * (i % 4)}about {'x' * (i // 4 + 1)}",
            text=" ".join(f"{'abcdefghij'[i % 10] * (i // 10 + 1)}{letter}" for letter in "klmnopqrst"),
        )
        for i in range(200)
    ]  # fmt: skip
    offer = "buy the very best of all things from us today because they are so good and cheap"
    return different + [
        Mail(name=f"spam/{i}", is_spam=True, subject=f"offer {i}", text=f"{offer} {'z' * (i + 1)}") for i in range(10)
    ]


def test_no_mail_is_on_two_sides_and_none_is_lost() -> None:
    mails = _mails()
    split = split_mails(mails)
    names = [mail.name for side in (split.train, split.dev, split.test) for mail in side]
    assert sorted(names) == sorted(mail.name for mail in mails)
    assert split.dev
    assert split.test
    assert len(split.train) > 4 * len(split.test)


def test_a_thread_and_mails_much_alike_are_on_one_side() -> None:
    split = split_mails(_mails())
    sides = {mail.name: side for side in ("train", "dev", "test") for mail in getattr(split, side)}
    assert len({sides[f"spam/{i}"] for i in range(10)}) == 1
    threads = [{sides[f"ham/{4 * thread + mail}"] for mail in range(4)} for thread in range(50)]
    assert {len(thread) for thread in threads} == {1}
    assert set.union(*threads) == {"train", "dev", "test"}
