"""torch itself: in fp32, and in int8 by torch's own quantizer, and by torchao with torch.compile."""

from pathlib import Path
from typing import Any, Final

from rpln_runtime.tasks import TASKS

ENGINE: Final = "onednn"
"""The engine of torch's quantized products. It was faster than `x86`, which is torch's default."""


def torch_model(task: str, checkpoint: Path, threads: int) -> Any:
    """Return transformers' own model in fp32, with scaled_dot_product_attention."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    model = getattr(transformers, TASKS[task].architecture)
    return model.from_pretrained(checkpoint, attn_implementation="sdpa", dtype=torch.float32).eval()


def torch_dynamic(model: Any) -> Any:
    """Return the model with its linear layers in int8; activations are rounded while it runs."""
    import torch

    torch.backends.quantized.engine = ENGINE
    quantize: Any = torch.ao.quantization.quantize_dynamic  # it has no annotations
    return quantize(model, {torch.nn.Linear}, dtype=torch.qint8)


def torchao_compiled(model: Any) -> Any:
    """Return the model with its linear layers in torchao's int8, compiled: in eager mode it gains little.

    Sizes are dynamic, so that it is compiled only once or twice.
    """
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return torch.compile(model, dynamic=True, options={"freezing": True})


def save_weights(model: Any, path: Path) -> Path:
    """Write the weights of the model to `path`."""
    import torch

    torch.save(model.state_dict(), path)
    return path
