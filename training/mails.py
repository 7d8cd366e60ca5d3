"""The SpamAssassin public mail corpus: reading each message as the text that its reader sees, ham or spam.

Headers other than the subject are left out: they tell where and when a message was collected, not what it says. Lines
quoted from other messages are left out because those messages are documents of their own.
"""

import json
import re
from dataclasses import dataclass
from email import message_from_string
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from html import unescape
from pathlib import Path
from typing import Final

from training.near_duplicates import groups_of_similar
from training.split import Split, split_groups

_FOLDERS: Final = {"easy-ham-1": False, "easy-ham-2": False, "hard-ham-1": False, "spam-1": True, "spam-2": True}

_NO_TEXT: Final = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>", re.DOTALL | re.IGNORECASE)
_TAGS: Final = re.compile(r"</(html|body|table|font|a|p)>", re.IGNORECASE)
_QUOTED: Final = re.compile(r"^[ \t]*[>|].*$", re.MULTILINE)
_REPLY: Final = re.compile(r"^\W*(re|fwd?|aw)\W+", re.IGNORECASE)
_LONGEST_WORD: Final = 40  # longer ones are addresses with tracking numbers, and encoded attachments
_FEWEST_WORDS: Final = 5
_MOST_FOREIGN: Final = 0.1  # share of characters outside ASCII; mails in other scripts are mojibake


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A message: its file in the corpus, whether it is spam, its subject, and subject and body in one line."""

    name: str
    is_spam: bool
    subject: str
    text: str


def read_mails(folder: Path) -> list[Mail]:
    """Return the messages of the corpus in the order of their names; equal texts count once.

    Messages of fewer than five words and those in other scripts are left out.

    Raises:
        SystemExit: the folder does not hold the corpus.
    """
    by_text: dict[str, Mail] = {}
    for group, is_spam in _FOLDERS.items():
        paths = sorted((folder / "data" / group).glob("*.json"))
        if not paths:
            raise SystemExit(
                f"{folder} is not the unpacked SpamAssassin corpus: it has no messages in data/{group}. Delete the "
                "folder, and run the command again to fetch it."
            )
        for path in paths:
            mail = _mail_from_source(json.loads(path.read_text("utf-8"))["text"], f"{group}/{path.stem}", is_spam)
            if _is_readable(mail.text):
                by_text.setdefault(mail.text, mail)
    return list(by_text.values())


def split_mails(mails: list[Mail]) -> Split[Mail]:
    """Return the mails split by groups; a group is a thread, or messages much alike."""
    return split_groups(groups_of_similar(mails, text_of=lambda mail: mail.text, topic_of=_topic))


def _topic(mail: Mail) -> str | None:
    """Return the subject without "Re:", numbers and marks, or None if it is too short to tell threads."""
    subject = mail.subject
    while _REPLY.match(subject):
        subject = _REPLY.sub("", subject, count=1)
    words = re.findall(r"[a-z]+", subject.lower())
    return " ".join(words) if len(words) > 1 else None


def _mail_from_source(source: str, name: str, is_spam: bool) -> Mail:  # noqa: FBT001 - a field's value
    message = message_from_string(source)
    subject = _one_line(_decoded_header(str(message["subject"] or "")))
    body = _one_line(_QUOTED.sub("", _body(message)))
    return Mail(name=name, is_spam=is_spam, subject=subject, text=f"{subject} {body}".strip())


def _body(message: Message) -> str:
    """Return the first plain text of a message, or else its first HTML without tags."""
    for content_type in ("text/plain", "text/html"):
        for part in message.walk():
            if part.get_content_type() == content_type:
                text = _decoded_payload(part)
                is_html = content_type == "text/html" or _TAGS.search(text)  # some HTML calls itself plain
                return unescape(_NO_TEXT.sub(" ", text)) if is_html else text
    return ""


def _decoded_payload(part: Message) -> str:
    encoding = str(part["content-transfer-encoding"] or "").strip().lower()
    if encoding in {"base64", "quoted-printable"}:
        payload = part.get_payload(decode=True)
        return payload.decode("latin-1") if isinstance(payload, bytes) else ""
    return str(part.get_payload())


def _decoded_header(value: str) -> str:
    try:
        return str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, UnicodeError):  # of unknown or false character sets
        return value


def _one_line(text: str) -> str:
    return " ".join(word for word in text.split() if len(word) <= _LONGEST_WORD)


def _is_readable(text: str) -> bool:
    foreign = sum(not character.isascii() for character in text)
    return len(text.split()) >= _FEWEST_WORDS and foreign <= _MOST_FOREIGN * len(text)
