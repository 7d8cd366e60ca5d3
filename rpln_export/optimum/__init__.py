"""Teaches Optimum's own exporter the model type roberta-prelayernorm. Importing this module is all it takes.

`optimum-cli export onnx` imports it by itself. In Python, import it before `ORTModelFor*.from_pretrained(checkpoint,
export=True)` or `optimum.exporters.onnx.main_export`. The graphs are those of Optimum: traced from transformers' class,
neither rewritten nor measured, and checked by Optimum on one random input. docs/optimum.md compares them with bundles.

Raises MissingExtraError where Optimum's ONNX part is not installed.
"""

from rpln_export.extras import require_extra

require_extra("optimum")

from rpln_export.optimum.configs import (  # noqa: E402 # the line above says what is missing, in a sentence
    DecoderOnnxConfig,
    EncoderOnnxConfig,
    register_configs,
)

__all__ = ["DecoderOnnxConfig", "EncoderOnnxConfig"]

register_configs()
