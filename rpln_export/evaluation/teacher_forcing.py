"""The logits of a decoder that is fed the right tokens, whatever it predicts.

Where the graph gives logits for all tokens, it runs once for a batch. Otherwise it runs token by token, with the cache,
as it does when it generates.

Shapes: B batch, T tokens that are fed, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from rpln_export.evaluation.runners import Runner
from rpln_runtime.batching import batches, feeds_from_encodings, rows_within, token_budget
from rpln_runtime.errors import InputError
from rpln_runtime.generation.cache import CROSS, PAST, PRESENT
from rpln_runtime.generation.decoder import ENCODERS
from rpln_runtime.generation.positions import FORWARD, positions_from_scheme
from rpln_runtime.manifest import Graph
from rpln_runtime.session import Session
from rpln_runtime.tasks import BATCH, ENCODER_MASK, SEQUENCE
from rpln_runtime.tokenization import Encoding

Arrays = Mapping[str, np.ndarray]

_BATCH_SIZE: Final = 8


def run_decoder(runner: Runner, sources: Sequence[Encoding], fed: Sequence[np.ndarray]) -> Iterator[tuple[int, Arrays]]:
    """Yield the place of each row and its `logits`, (T, V), fp32, in batches, the longest rows first.

    Args:
        runner: the decoder, with its encoder if it has one.
        sources: the tokens that the encoder reads, for each row; without an encoder they are not read.
        fed: the tokens that the decoder is fed, (T), for each row.
    """
    decoder, manifest = _decoder_sessions(runner), runner.manifest
    (spec,) = (spec for spec in decoder[0].graph.outputs if spec.name == "logits")
    at_once = SEQUENCE in spec.shape
    budget = token_budget([replace(spec, shape=(BATCH, SEQUENCE, spec.shape[-1]))], manifest.usable_length)
    size = min(rows_within(session.profiles, _BATCH_SIZE) for session in decoder)
    for batch in batches([len(ids) for ids in fed], batch_size=size, batch_tokens=budget):
        rows = [fed[place] for place in batch]
        memory = _encoded(runner, [sources[place] for place in batch])
        logits = _at_once(runner, rows, memory) if at_once else _step_by_step(runner, rows, memory)
        for place, ids, row_TV in zip(batch, rows, logits, strict=True):
            yield place, {"logits": row_TV[: len(ids)].astype(np.float32, copy=False)}


def _decoder_sessions(runner: Runner) -> list[Session]:
    """Return the session for prompts and that for steps, which may be the same."""
    sessions = [session for variant, session in runner.sessions.items() if variant not in ENCODERS]
    return [sessions[0], sessions[-1]]


def _encoded(runner: Runner, sources: Sequence[Encoding]) -> Arrays:
    """Return what the decoder reads of its encoder for these rows: mask, keys and values; nothing without an encoder.

    Raises InputError for a bundle whose encoder is of another architecture, and is not in the bundle.
    """
    session = next((runner.sessions[variant] for variant in ENCODERS if variant in runner.sessions), None)
    if session is None:
        return {}
    feeds = feeds_from_encodings(sources, session.graph, runner.manifest)
    names = [spec.name for spec in session.graph.outputs if spec.name.startswith(CROSS)]
    return {ENCODER_MASK.name: feeds["attention_mask"], **session.run(feeds, outputs=names)}


def _at_once(runner: Runner, rows: Sequence[np.ndarray], memory: Arrays) -> np.ndarray:
    """Return the logits of a graph that gives those of all tokens, (B, T, V). Rows are padded on the right."""
    session = _decoder_sessions(runner)[0]
    ids_BT, mask_BT = _padded(rows, runner.manifest.pad_token_id)
    feeds = _feeds(runner, session.graph, ids_BT, mask_BT, new=ids_BT.shape[1], given=memory)
    return session.run(feeds, outputs=["logits"])["logits"]


def _step_by_step(runner: Runner, rows: Sequence[np.ndarray], memory: Arrays) -> np.ndarray:
    """Return the logits, (B, T, V), of a graph that gives those of the last token. `rows` begin with the longest.

    A row that has ended leaves the batch, so that no step has padding.
    """
    prompt, step = _decoder_sessions(runner)
    ids_BT, _ = _padded(rows, runner.manifest.pad_token_id)
    past: Arrays = {}
    steps = []
    for end in range(1, ids_BT.shape[1] + 1):
        live = sum(len(row) >= end for row in rows)
        session = prompt if end == 1 else step
        given = {name: array[:live] for name, array in (*memory.items(), *past.items())}
        new = 1 if past else end  # without a cache, all tokens are computed again
        feeds = _feeds(runner, session.graph, ids_BT[:live, :end], np.ones((live, end), np.int64), new=new, given=given)
        present = [spec.name for spec in session.graph.outputs if spec.name.startswith(PRESENT)]
        found = session.run(feeds, outputs=["logits", *present])
        past = {PAST + name.removeprefix(PRESENT): found[name] for name in present}
        logits_BV = np.zeros((len(rows), found["logits"].shape[-1]), np.float32)
        logits_BV[:live] = found["logits"][:, -1]
        steps.append(logits_BV)
    return np.stack(steps, axis=1)


def _feeds(
    runner: Runner, graph: Graph, ids_BT: np.ndarray, mask_BT: np.ndarray, *, new: int, given: Arrays
) -> dict[str, np.ndarray]:
    """Return the inputs of `graph` for the last `new` tokens, behind the earlier tokens that are in the cache.

    `given` are the cache and what is read of an encoder. A cache that is not given is empty, and a head mask is ones.
    """
    generation = runner.manifest.generation
    assert generation is not None  # read_manifest and the plan of an export see to it
    positions = positions_from_scheme(FORWARD, generation)
    known = {
        "input_ids": ids_BT[:, -new:],
        "attention_mask": mask_BT,
        "position_ids": positions.of(positions.counted(ids_BT, mask_BT))[:, -new:],
        "token_type_ids": np.zeros_like(ids_BT[:, -new:]),
        **given,
    }
    feeds = {}
    for spec in graph.inputs:
        if spec.name in known:
            feeds[spec.name] = np.ascontiguousarray(known[spec.name])
        elif spec.name.startswith(PAST) and spec.dtype != "bfloat16":
            _, heads, _, size = spec.shape
            feeds[spec.name] = np.zeros((len(ids_BT), int(heads), 0, int(size)), spec.dtype)
        elif all(isinstance(axis, int) for axis in spec.shape):
            feeds[spec.name] = np.ones([int(axis) for axis in spec.shape], spec.dtype)
        else:
            raise InputError(
                f"{graph.path} takes {spec.name!r} ({spec.dtype}), which cannot be made from texts here. Export the "
                "checkpoint without it; a cache in bfloat16 becomes one in fp16 with --fp16."
            )
    return feeds


def _padded(rows: Sequence[np.ndarray], padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of the rows, padded on the right, and the mask of their tokens. Both are (B, T), int64."""
    lengths_B1 = np.array([[len(row)] for row in rows])
    mask_BT = (np.arange(lengths_B1.max()) < lengths_B1).astype(np.int64)
    ids_BT = np.full(mask_BT.shape, padding, np.int64)
    ids_BT[mask_BT == 1] = np.concatenate(rows)
    return ids_BT, mask_BT
