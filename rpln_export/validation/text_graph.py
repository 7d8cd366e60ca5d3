"""The proof that a bundle's graph from texts equals its tokenizer and its session."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rpln_export.errors import ValidationError
from rpln_export.extras import require_extra
from rpln_export.plan.calibration import DEFAULT_TEXTS
from rpln_export.plan.text_graph import EXTRA, TEXT_GRAPH
from rpln_graphs.text import TEXT
from rpln_runtime.manifest import Manifest
from rpln_runtime.session import DEFAULT_PROVIDER, open_session
from rpln_runtime.tokenization import Tokenizer, truncate

DIFFERENCE: Final = 1e-5
"""The accepted difference, relative to an output's largest value. Both sides run the same graph on the same ids."""

ADVICE: Final = "Export without --with-tokenizer, and please report it, with what rpln doctor shows."


def prove_text_graph(folder: Path, manifest: Manifest) -> None:
    """Compare the bundle's graph from texts, if it has one, with its tokenizer and session.

    Raises ValidationError where ids or outputs differ, and MissingExtraError without the operators' library.
    """
    if not (folder / TEXT_GRAPH).is_file():
        return
    session, run = open_session(folder, manifest, provider=DEFAULT_PROVIDER), _opened(folder / TEXT_GRAPH)
    tokenizer = Tokenizer.from_bundle(folder, manifest)
    mask = None if manifest.mask_token_id is None else tokenizer.token(manifest.mask_token_id)
    for texts in _batches(manifest.longest_text, mask):
        found = run(texts)
        encodings = [
            truncate(tokenizer.encode(text), manifest.longest_text, truncation_side=manifest.truncation_side).ids
            for text in texts
        ]
        ids = _padded(encodings, manifest.pad_token_id)
        real = _padded([np.ones_like(row) for row in encodings], 0)
        if not (np.array_equal(found["input_ids"], ids) and np.array_equal(found["attention_mask"], real)):
            raise ValidationError(f"{TEXT_GRAPH} gives other tokens than tokenizer.json for {_shown(texts)}. {ADVICE}")
        feeds = {"input_ids": ids, "attention_mask": real, "token_type_ids": np.zeros_like(ids)}
        expected = session.run({spec.name: feeds[spec.name] for spec in session.graph.inputs})
        for name, values in expected.items():
            if not np.allclose(
                found[name], values, rtol=0, atol=DIFFERENCE * max(1.0, np.abs(values).max(initial=0.0))
            ):
                raise ValidationError(
                    f"{TEXT_GRAPH} gives other {name} than {session.graph.path} for {_shown(texts)}. {ADVICE}"
                )


def _batches(longest_text: int, mask: str | None) -> Iterator[list[str]]:
    """Yield batches of texts.

    They hold prose and code together, single texts, a text that is too long beside one that is not, and mask tokens.
    """
    texts = DEFAULT_TEXTS.read_text(encoding="utf-8").splitlines()
    short = [text[: 2 * longest_text] for text in texts]
    yield short
    yield from ([text] for text in ("", " a", "a <b", "naïve café 東京 😀"))
    yield [" ".join([*texts] * longest_text)[: 20 * longest_text], "a"]
    if mask is not None:
        yield [f"a {mask} of {mask}{mask}b", f"{mask} c <", f"d{mask}"]


def _opened(path: Path) -> Callable[[Sequence[str]], dict[str, NDArray[Any]]]:
    """Return a function that runs the graph from texts on a batch of texts, and returns its outputs by name."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.register_custom_ops_library(require_extra(EXTRA).get_library_path())
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda texts: dict(zip(names, session.run(names, {TEXT: np.array(texts, dtype=object)}), strict=True))


def _padded(rows: Sequence[NDArray[np.int64]], value: int) -> NDArray[np.int64]:
    width = max(map(len, rows))
    return np.stack([np.pad(row, (0, width - len(row)), constant_values=value) for row in rows])


def _shown(texts: Sequence[str]) -> str:
    return ", ".join(repr(text[:40]) for text in texts[:3])
