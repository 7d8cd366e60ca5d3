"""The tokenizer: RoBERTa's byte-level BPE, trained so that every punctuation mark is a token of its own."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

START, PAD, END, UNKNOWN, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
_SPECIAL_TOKENS: Final = (START, PAD, END, UNKNOWN, MASK)
START_ID, PAD_ID, END_ID, MASK_ID = 0, 1, 2, 4  # the first three as in every RoBERTa

# GPT-2's pattern, except that dashes and single marks replace its runs of marks, where `."` would be one piece.
MARKS_APART: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?--| ?[^\s\p{L}\p{N}]|\s+(?!\S)|\s+"

# The same, with a word's first letter apart: `The` and `the` then differ in one token, and the other tokens of a name
# are the same with and without its capital.
FIRST_LETTERS_APART: Final = (
    r"'s|'t|'re|'ve|'m|'ll|'d| \p{L}|(?<!\p{L})\p{L}|\p{L}+| ?\p{N}+| ?--| ?[^\s\p{L}\p{N}]|\s+(?!\S)|\s+"
)

_ROLES: Final = {
    "bos_token": START,
    "cls_token": START,
    "eos_token": END,
    "sep_token": END,
    "pad_token": PAD,
    "unk_token": UNKNOWN,
    "mask_token": MASK,
}


def train_tokenizer(texts: Iterable[str], *, vocabulary_size: int, pieces: str = MARKS_APART) -> Tokenizer:
    """Return a tokenizer with RoBERTa's pre-tokenizer and post-processor.

    The merges are learned on `pieces` of one mark each, so that no merge joins two marks. With the byte-level
    pre-tokenizer that every RoBERTa has, each mark is then a token of its own, which can have a tag.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        special_tokens=[AddedToken(token, lstrip=token == MASK, special=True) for token in _SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((f" {text}" for text in texts), trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        (END, END_ID),
        (START, START_ID),
        trim_offsets=True,
        add_prefix_space=True,
    )
    return tokenizer


def open_ended(tokenizer: Tokenizer) -> Tokenizer:
    """Let the tokenizer put <s> before a text and nothing behind it, so that a decoder continues the text."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A $B", special_tokens=[(START, START_ID)]
    )
    return tokenizer


def save_tokenizer(
    tokenizer: Tokenizer, folder: Path, *, max_length: int, tokenizer_class: str = "RobertaTokenizer"
) -> None:
    """Write the files from which transformers and tokenizers load the same tokenizer, which truncates nothing.

    `tokenizer_class` is the class that transformers loads it as: PreTrainedTokenizerFast after `open_ended`, because
    RobertaTokenizer makes its post-processor anew.
    """
    content = json.loads(tokenizer.to_str()) | {"truncation": None}
    (folder / "tokenizer.json").write_text(
        json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8"
    )
    settings = {
        "tokenizer_class": tokenizer_class,
        "add_prefix_space": True,
        "trim_offsets": True,
        "model_max_length": max_length,
        **_ROLES,
    }
    write_json(folder / "tokenizer_config.json", settings)
    mask = {"content": MASK, "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}
    write_json(folder / "special_tokens_map.json", _ROLES | {"mask_token": mask})


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
