"""Rows: what a graph reads for an example, and the outputs of a runner for each row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np

from rpln_export.evaluation.runners import Runner
from rpln_export.evaluation.teacher_forcing import run_decoder
from rpln_runtime.pipelines import run_encodings
from rpln_runtime.tokenization import Encoding

UNCOUNTED: Final = -1
"""What stands in `Row.targets` for a token whose prediction does not count."""

Outputs: TypeAlias = Mapping[str, np.ndarray]
"""The outputs for a row by name, fp32, without padding."""


def _no_tokens() -> np.ndarray:
    return np.array([], np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """A row of a batch.

    Attributes:
        encoding: the tokens that the graph reads; in an encoder-decoder, those that the encoder reads.
        decoder_ids: the tokens that a decoder is fed; empty for tasks that generate no text.
        targets: the tokens to be predicted, one for each mask or for each token of `decoder_ids`. UNCOUNTED stands for
            a prediction that does not count. Empty for tasks that predict no tokens.
    """

    encoding: Encoding
    decoder_ids: np.ndarray = field(default_factory=_no_tokens)
    targets: np.ndarray = field(default_factory=_no_tokens)


def run_rows(runner: Runner, rows: Sequence[Row]) -> Iterator[tuple[int, Outputs]]:
    """Yield the place in `rows` and the outputs of each, in batches of similar lengths, the longest first.

    A decoder is fed the right tokens, whatever it predicts, and its logits are (tokens, vocabulary). The arrays may be
    views of the whole batch's: copy what you keep. Raises InputError for a graph that cannot be fed from texts, and
    ProviderError where it cannot run.
    """
    encodings = [row.encoding for row in rows]
    if runner.task.generates:
        yield from run_decoder(runner, encodings, [row.decoder_ids for row in rows])
        return
    (session,) = runner.sessions.values()
    names = runner.task.answering(spec.name for spec in session.graph.outputs)
    for index, row in run_encodings(session, encodings, outputs=names):
        yield index, row.outputs
