"""Compares the bundles of every task on the device with eager torch in fp32 on the same device.

Shapes: B batch, C choices, S sequence.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.gpu.bundles import BUNDLES, BenchBundle
from benchmarks.gpu.device import Device
from benchmarks.gpu.results import Results
from rpln_export.plan.defaults import DEFAULTS
from rpln_graphs.recipes import RECIPES
from rpln_graphs.stress import CHOICE_COUNT, MASK_KINDS, random_mask
from rpln_graphs.tolerances import RangeTolerance
from rpln_runtime import generator, load
from rpln_runtime.tasks import CHOICES, TASKS

SHAPES: Final = ((1, 1), (3, 17), (8, 128))
"""The rows and tokens of the batches that are compared, under every kind of mask but an empty one."""
FIRST_WORD: Final = 5
"""The first id that is not a special token."""
PROMPTS: Final = ((3, 9), (1, 30))
"""The rows and tokens of prompts, and of texts that an encoder reads."""
NEW_TOKENS: Final = 24


def check_answers(folder: Path, device: Device, results: Results) -> None:
    """Compare every bundle of an embedded checkpoint, and write a fact for each of its batches."""
    for row in BUNDLES:
        if row.network is not None:
            continue
        model = torch_model(row.task, device)
        facts = (
            generated(row, folder, model, device) if TASKS[row.task].generates else computed(row, folder, model, device)
        )
        for fact in facts:
            results.add("answer", {"bundle": row.name, **fact})


def torch_model(task: str, device: Device) -> Any:
    """Return transformers' own model of the embedded checkpoint of a task, in fp32 on the device."""
    import transformers

    architecture = getattr(transformers, TASKS[task].architecture)
    return architecture.from_pretrained(DEFAULTS[task].folder).float().eval().to(device.torch)


def computed(row: BenchBundle, folder: Path, model: Any, device: Device) -> Iterator[dict[str, Any]]:
    """Yield for each batch how far the outputs of an encoder are from torch's, and how far they may be."""
    import torch

    session = load(folder / row.name, provider=device.provider)
    manifest = session.manifest
    names = TASKS[row.task].answering(spec.name for spec in session.graph.outputs)
    tolerance = RECIPES[manifest.recipe].tolerance
    assert isinstance(tolerance, RangeTolerance)
    rng = np.random.default_rng(0)
    has_choices = any(CHOICES in spec.shape for spec in session.graph.inputs)
    for rows, tokens in SHAPES:
        for kind in MASK_KINDS[:-1]:
            mask_BS = random_mask(kind, rows * (CHOICE_COUNT if has_choices else 1), tokens, rng)
            ids_BS = np.where(
                mask_BS, rng.integers(FIRST_WORD, manifest.vocab_size, mask_BS.shape), manifest.pad_token_id
            )
            shape = (rows, CHOICE_COUNT, tokens) if has_choices else (rows, tokens)
            feeds = {"input_ids": ids_BS.reshape(shape), "attention_mask": mask_BS.reshape(shape)}
            with torch.inference_mode():
                expected = model(**{name: torch.from_numpy(array).to(device.torch) for name, array in feeds.items()})
            found = session.run({spec.name: feeds[spec.name] for spec in session.graph.inputs}, outputs=names)
            pairs = [(found[name], expected[name].float().cpu().numpy()) for name in names]
            real_BS = mask_BS.astype(bool)
            pairs = [
                (mine[real_BS], theirs[real_BS]) if mine.shape[:2] == mask_BS.shape else (mine, theirs)
                for mine, theirs in pairs
            ]
            difference = max(float(np.abs(mine - theirs).max() / np.abs(theirs).max()) for mine, theirs in pairs)
            finite = all(np.isfinite(mine).all() for mine, _ in pairs)
            yield {
                "rows": rows,
                "tokens": tokens,
                "mask": kind,
                "difference": difference,
                "allowed": tolerance.difference,
                "equal": bool(finite and difference <= tolerance.difference),
            }


def generated(row: BenchBundle, folder: Path, model: Any, device: Device) -> Iterator[dict[str, Any]]:
    """Yield for each batch of prompts what share of a decoder's tokens is torch's; in fp32, all must be."""
    import torch

    generate = generator(
        folder / row.name,
        provider=device.provider,
        positions="transformers-generate",
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
    )
    manifest = generate.manifest
    rng = np.random.default_rng(0)
    exact = manifest.recipe == "fp32"
    for rows, tokens in PROMPTS:
        prompts = rng.integers(FIRST_WORD, manifest.vocab_size, (rows, tokens))
        mine = [answers[0].tokens for answers in generate.tokens(prompts.tolist())]
        ids = torch.from_numpy(prompts).to(device.torch)
        with torch.inference_mode():
            written = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS, num_beams=1
            )
        theirs = [new_tokens(line, tokens, manifest) for line in written.cpu().tolist()]
        same = [a == b for one, other in zip(mine, theirs, strict=True) for a, b in zip(one, other, strict=False)]
        share = sum(same) / max(len(same), 1)
        lengths = [len(one) for one in mine] == [len(other) for other in theirs]
        yield {"rows": rows, "tokens": tokens, "same_tokens": share, "equal": share == 1 and lengths if exact else None}


def new_tokens(line: list[int], prompt: int, manifest: Any) -> list[int]:
    """Return the tokens that torch wrote, without the prompt, a token that starts answers, and padding at the end."""
    start = 1 if manifest.generation.start_token_id is not None else prompt
    tokens = line[start:]
    while tokens and tokens[-1] == manifest.pad_token_id:
        tokens.pop()
    return tokens
