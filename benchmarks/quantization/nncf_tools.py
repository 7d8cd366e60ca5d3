"""NNCF, which is OpenVINO's own tool: static int8, and compressed weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.quantization.runtimes import Feeds


def nncf_static(fp32: Path, texts: Sequence[Feeds], *, smooth: bool = True) -> Path:
    """Return the graph that NNCF quantizes with ranges of `texts`, beside that in fp32.

    Without `smooth`, it leaves out SmoothQuant.
    """
    import nncf
    import onnx
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters

    dataset = nncf.Dataset([dict(text) for text in texts])
    alphas = AdvancedSmoothQuantParameters() if smooth else AdvancedSmoothQuantParameters(matmul=-1)
    quantized = nncf.quantize(
        onnx.load(fp32),
        dataset,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(texts),
        advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=alphas),
    )
    path = fp32.with_name("nncf.onnx")
    onnx.save(quantized, path)
    return path


def nncf_compressed(model: Any, path: Path, *, mode: str = "INT8_ASYM", **options: Any) -> Path:
    """Write OpenVINO's `model` to `path` with its weights in fewer bits. OpenVINO rounds activations while it runs."""
    import nncf
    import openvino

    compressed = nncf.compress_weights(model, mode=nncf.CompressWeightsMode[mode], **options)
    openvino.save_model(compressed, path, compress_to_fp16=False)
    return path
