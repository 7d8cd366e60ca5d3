"""The two corpora, fetched and split.

    python -m training.corpora [--data FOLDER]

is what `make data` runs: it fetches the corpora and writes splits.json beside them, which lists the documents for
training, development and testing.
"""

from pathlib import Path
from typing import Final

from training.brown import Document, read_corpus, split_documents
from training.mails import Mail, read_mails, split_mails
from training.options import data_parser
from training.packages import BROWN, MAILS, fetch
from training.split import Split
from training.tokenizer import write_json

_SIDES: Final = ("train", "dev", "test")


def main() -> None:
    """Fetch and split both corpora, and print how many documents each part has."""
    data: Path = data_parser("Fetch the public corpora and split them by document.").parse_args().data
    splits: dict[str, Split[Document] | Split[Mail]] = {"brown": brown_split(data), "mails": mail_split(data)}
    names = {
        corpus: {side: [document.name for document in getattr(split, side)] for side in _SIDES}
        for corpus, split in splits.items()
    }
    write_json(data / "splits.json", names)
    for corpus, sides in names.items():
        print(f"{corpus}: " + ", ".join(f"{len(sides[side])} documents {side}" for side in _SIDES))


def brown_split(data: Path) -> Split[Document]:
    """Return the Brown corpus, fetched into `data` if it is not there, split by file."""
    return split_documents(read_corpus(fetch(BROWN, data)))


def mail_split(data: Path) -> Split[Mail]:
    """Return the SpamAssassin mails, fetched into `data` if they are not there, split by thread."""
    return split_mails(read_mails(fetch(MAILS, data)))


if __name__ == "__main__":
    main()
