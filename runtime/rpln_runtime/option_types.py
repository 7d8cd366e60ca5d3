"""What `pipeline` takes for each task, as types for type checkers, which cannot derive them from other classes.

Each has the options of its task, with the names and the types of the fields of the class that describes them.
"""

from collections.abc import Sequence
from typing import Literal, TypedDict


class OpeningOptions(TypedDict, total=False):
    """What `rpln_runtime.pipeline` takes for every task."""

    provider: str | None
    threads: int | None
    batch_size: int | None
    verify: bool


class FeatureExtractionOptions(OpeningOptions, total=False):
    """The options of `rpln_runtime.postprocess.feature_extraction.FeatureExtraction`."""

    pooling: str | None
    normalize: bool
    truncation: bool | None
    prompt: str | None
    prompt_name: str | None


class FillMaskOptions(OpeningOptions, total=False):
    """The options of `rpln_runtime.postprocess.fill_mask.FillMask`."""

    top_k: int
    targets: str | Sequence[str] | None
    truncation: bool


class MultipleChoiceOptions(OpeningOptions, total=False):
    """The options of `rpln_runtime.postprocess.multiple_choice.MultipleChoice`."""

    truncation: bool


class QuestionAnsweringOptions(OpeningOptions, total=False):
    """The options of `rpln_runtime.postprocess.question_answering.QuestionAnswering`."""

    top_k: int
    handle_impossible_answer: bool
    max_answer_len: int
    max_seq_len: int | None
    doc_stride: int | None
    align_to_words: bool


class TextClassificationOptions(OpeningOptions, total=False):
    """The options of `rpln_runtime.postprocess.text_classification.TextClassification`."""

    top_k: int | Literal["best"] | None
    function_to_apply: str | None
    truncation: bool


class TokenClassificationOptions(OpeningOptions, total=False):
    """The options of `rpln_runtime.postprocess.token_classification.TokenClassification`."""

    aggregation_strategy: str
    ignore_labels: Sequence[str]
    stride: int | None
    is_split_into_words: bool
    delimiter: str


class TextGenerationOptions(OpeningOptions, total=False):
    """The options of `rpln_runtime.GenerationOptions`."""

    max_new_tokens: int | None
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int | None
    repetition_penalty: float
    no_repeat_ngram_size: int
    bad_words_ids: Sequence[Sequence[int]] | None
    min_length: int
    min_new_tokens: int | None
    forced_bos_token_id: int | None
    forced_eos_token_id: int | Sequence[int] | None
    suppress_tokens: Sequence[int] | None
    begin_suppress_tokens: Sequence[int] | None
    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    num_return_sequences: int
    stop_token_ids: Sequence[int] | None
    stop_strings: str | Sequence[str]
    positions: str
    return_full_text: bool | None
