"""The skeleton of a pre-LayerNorm network as text: each block is only a LayerNorm and an output projection."""

import numpy as np
import onnx_ir as ir

from tests.graphs.text_graphs import Arrays, model_from_text

SIZE = 4
ENCODER = ("attention", "intermediate")
DECODER = ("attention", "crossattention", "intermediate")
FEEDS: Arrays = {"embedded": np.random.default_rng(1).standard_normal((5, SIZE)).astype(np.float32)}


def residual_network(*, layers: int, blocks: tuple[str, ...] = ENCODER, epsilon: float = 0.01) -> ir.Model:
    """Return a graph: embedded [rows, 4] -> hidden_states.0 to hidden_states.{layers}, last_hidden_state and logits."""
    rng = np.random.default_rng(0)
    weights: list[str] = []
    lines: list[str] = []

    def norm(module: str, source: str, result: str) -> None:
        weights.extend(_initializer(f"{module}__{name}", (SIZE,), rng) for name in ("weight", "bias"))
        lines.append(f"{result} = LayerNormalization<epsilon = {epsilon}>({source}, {module}__weight, {module}__bias)")

    def dense(module: str, source: str, result: str) -> None:
        weights.append(_initializer(f"{module}__weight__T", (SIZE, SIZE), rng))
        weights.append(_initializer(f"{module}__bias", (SIZE,), rng))
        lines.extend(
            [f"{result}_mm = MatMul({source}, {module}__weight__T)", f"{result} = Add({result}_mm, {module}__bias)"]
        )

    stream = "hidden_states__0"
    norm("embeddings__LayerNorm", "embedded", stream)
    for layer in range(layers):
        for block in blocks:
            path = f"encoder__layer__{layer}"
            last = block == blocks[-1]
            new = f"hidden_states__{layer + 1}" if last else f"{path}__{block}__sum"
            norm(f"{path}__{block}__LayerNorm", stream, f"{path}__{block}__normed")
            dense(
                f"{path}__{'' if last else f'{block}__'}output__dense",
                f"{path}__{block}__normed",
                f"{path}__{block}__added",
            )
            lines.append(f"{new} = Add({stream}, {path}__{block}__added)")
            stream = new
    norm("LayerNorm", stream, "last_hidden_state")
    dense("lm_head__dense", "last_hidden_state", "lm_head")
    norm("lm_head__layer_norm", "lm_head", "logits")
    outputs = [*(f"hidden_states__{index}" for index in range(layers + 1)), "last_hidden_state", "logits"]
    typed = ", ".join(f"float[rows, {SIZE}] {name}" for name in outputs)
    head = f"network (float[rows, {SIZE}] embedded) => ({typed})"
    return model_from_text("\n".join([head, "<", ",\n".join(weights), ">", "{", *lines, "}"]))


def _initializer(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> str:
    numbers = ", ".join(f"{number:.6f}" for number in rng.standard_normal(int(np.prod(shape))))
    return f"float[{', '.join(map(str, shape))}] {name} = {{{numbers}}}"
