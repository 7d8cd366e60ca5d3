"""ONNX Runtime's own quantizers (onnxruntime.quantization): dynamic, static, and weights in blocks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.quantization.runtimes import Feeds

BLOCK: Final = 128
"""The weights of a block of MatMulNBits. It is the quantizer's default."""
INT8_ACTIVATIONS: Final = 4
"""The accuracy level of MatMulNBits at which activations are rounded to 8 bits, which is the fastest."""


def dynamic(fp32: Path) -> Path:
    """Return the graph of quantize_dynamic, with weights quantized per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = fp32.with_name("ort-dynamic.onnx")
    quantize_dynamic(fp32, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
    return path


def static(fp32: Path, texts: Sequence[Feeds]) -> Path:
    """Return the graph of quantize_static in which the products with weights are quantized, per channel.

    Ranges are the smallest and largest values of `texts`. The graph is prepared as ONNX Runtime's pages say.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    path = fp32.with_name("ort-static.onnx")
    if not path.exists():
        quantize_static(
            _prepared(fp32),
            path,
            _Reader(texts),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"MatMulConstBOnly": True},
        )
    return path


def static_by_default(fp32: Path, texts: Sequence[Feeds]) -> Path:
    """Return the graph of quantize_static with its defaults: every operator that it knows, per tensor."""
    from onnxruntime.quantization import quantize_static

    path = fp32.with_name("ort-static-default.onnx")
    quantize_static(_prepared(fp32), path, _Reader(texts))
    return path


def weights_in_blocks(fp32: Path, *, bits: int) -> Path:
    """Return the graph of MatMulNBitsQuantizer: weights in blocks, rounded to nearest."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    path = fp32.with_name(f"ort-blocks-{bits}.onnx")
    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK, is_symmetric=True, accuracy_level=INT8_ACTIVATIONS, bits=bits
    )
    quantizer = MatMulNBitsQuantizer(onnx.load(fp32), algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(path))
    return path


class _Reader:
    """Gives the quantizer one text after another, and None at the end."""

    def __init__(self, texts: Sequence[Feeds]) -> None:
        self._texts: Iterator[Feeds] = iter(texts)

    def get_next(self) -> dict[str, Any] | None:
        """Return the inputs of the next text."""
        text = next(self._texts, None)
        return None if text is None else dict(text)


def _prepared(fp32: Path) -> Path:
    """Return the graph with inferred shapes, and optimized, which ONNX Runtime asks for before static quantization."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = fp32.with_name("ort-prepared.onnx")
    if not path.exists():
        quant_pre_process(fp32, path)
    return path
