"""fairseq's vocabulary (dict.txt over GPT-2's encoder.json and vocab.bpe) as a tokenizer that transformers loads.

fairseq goes from text to ids in two steps: byte-level BPE turns text into numbers, and the dictionary, whose words are
these numbers, gives each an id. Here both steps are one vocabulary:

    <s> <pad> </s> <unk>, the rows of dict.txt (each by its token in encoder.json), <mask>
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import RobertaTokenizerFast

from rpln_export.errors import PlanError
from rpln_runtime.documents import DocumentError, document_from_bytes
from rpln_runtime.limits import OTHER

_FIRST: Final = ("<s>", "<pad>", "</s>", "<unk>")
_MASK: Final = "<mask>"
_SHOWN: Final = 5
"""The most tokens that a message lists."""
_BPE: Final = "--bpe encoder.json vocab.bpe"


@dataclass(frozen=True, slots=True, kw_only=True)
class FairseqVocabulary:
    """The three files of a fairseq vocabulary."""

    dictionary: Path
    encoder: Path
    merges: Path


def tokenizer_from_fairseq(files: FairseqVocabulary, *, vocab_size: int, usable_length: int) -> Any:
    """Return RoBERTa's fast tokenizer with fairseq's ids for every text. Its mask token takes the space before it.

    `vocab_size` is that of the network, and `usable_length` the most tokens it takes. Raises PlanError for a file that
    cannot be read, and for a dictionary of another size, with unknown numbers, or without numbers that a text may need.
    """
    encoder, merges = _encoder(files.encoder), _merges(files.merges)
    vocabulary = _vocabulary(files, encoder)
    if len(vocabulary) != vocab_size:
        raise PlanError(
            f"{files.dictionary} makes a vocabulary of {len(vocabulary)}, but the network has {vocab_size} embeddings. "
            "Name the dict.txt that it was trained with (in the folder of its binarized data) with --dict."
        )
    _check_complete(files, vocabulary, encoder, merges)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    start, end = (("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"]))
    tokenizer.post_processor = processors.RobertaProcessing(end, start, trim_offsets=True, add_prefix_space=False)
    mask = AddedToken(_MASK, lstrip=True, normalized=False, special=True)
    tokenizer.add_special_tokens([*_FIRST, mask])
    fast: Any = RobertaTokenizerFast  # transformers' annotations know the mask as a str only
    return fast(tokenizer_object=tokenizer, mask_token=mask, add_prefix_space=False, model_max_length=usable_length)


def _vocabulary(files: FairseqVocabulary, encoder: dict[str, int]) -> dict[str, int]:
    """Return the id of each token. Words of the dictionary that are no numbers are tokens themselves."""
    tokens = {str(number): token for token, number in encoder.items()}
    words = list(_FIRST)
    for line in filter(None, _text(files.dictionary, "--dict").split("\n")):
        word, _, count = line.rstrip().rpartition(" ")
        if not word or not count.isdecimal():
            raise PlanError(f"{files.dictionary} has the line {line!r}. Expected a word and its count in each line.")
        if word.isdecimal() and word not in tokens:
            raise PlanError(
                f"{files.dictionary} has the word {word}, which is no id in {files.encoder}. Name the files that the "
                f"training data were encoded with: {_BPE}."
            )
        words.append(tokens.get(word, word))
    # fairseq adds the mask after the rows, unless it is one of them.
    words += {_MASK} - {*words}
    if repeated := [word for word, times in Counter(words).items() if times > 1]:
        raise PlanError(
            f"{files.dictionary} has {_listed(repeated)} more than once. Expected one line for each. Name the dict.txt "
            "that fairseq-preprocess wrote."
        )
    return {word: index for index, word in enumerate(words)}


def _check_complete(
    files: FairseqVocabulary, vocabulary: Collection[str], encoder: Collection[str], merges: list[tuple[str, str]]
) -> None:
    """Refuse a dictionary that lacks a token which BPE may make.

    fairseq gives such a token the id of <unk>, which a tokenizer.json cannot express.
    """
    needed = {*pre_tokenizers.ByteLevel.alphabet()}
    for first, second in merges:
        needed |= {first, second, first + second}
    if strangers := needed.difference(encoder):
        raise PlanError(
            f"{files.encoder} lacks {_listed(strangers)} of {files.merges}, so that they do not belong together. Name "
            f"the files that the training data were encoded with: {_BPE}."
        )
    if unknown := needed.difference(vocabulary):
        raise PlanError(
            f"{files.dictionary} lacks {_listed(unknown)}, which fairseq reads as <unk>: it was made from the words of "
            "the training data alone. A tokenizer.json cannot express that. Name a tokenizer of your own with "
            "--tokenizer."
        )


def _encoder(path: Path) -> dict[str, int]:
    """Return the tokens of encoder.json with their numbers. Raises PlanError for another file."""
    try:
        content = document_from_bytes(_text(path, "--bpe").encode(), OTHER)
    except DocumentError as error:
        raise PlanError(f"{path} is not valid JSON ({error}). Name encoder.json first: {_BPE}.") from error
    if not isinstance(content, dict) or not all(type(number) is int for number in content.values()):
        raise PlanError(f"{path} is no vocabulary. Expected tokens and their numbers, as in {_BPE}.")
    return content


def _merges(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of vocab.bpe. Its first line is a version, and fairseq ignores a last line without a newline."""
    pairs = [line.split() for line in _text(path, "--bpe").split("\n")[1:-1]]
    if wrong := next((pair for pair in pairs if len(pair) != 2), None):
        raise PlanError(f"{path} has the line {' '.join(wrong)!r}. Expected two tokens in each line, as in {_BPE}.")
    return [(first, second) for first, second in pairs]


def _text(path: Path, option: str) -> str:
    """Return the content of the file that `option` names. Raises PlanError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} of {option} cannot be read ({error}). Expected a text file in UTF-8.") from error


def _listed(tokens: Collection[str]) -> str:
    """Return the first few tokens for a message, and how many more there are."""
    shown = sorted(tokens)[:_SHOWN]
    more = len(tokens) - len(shown)
    return ", ".join(map(repr, shown)) + (f" and {more} more" if more else "")
