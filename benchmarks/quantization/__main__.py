"""Compares quantized graphs on a CPU in one run: this project's, and what other tools make of the same networks.

`python -m benchmarks.quantization` makes a base-size encoder and a base-size decoder with random weights, and writes
their graphs as an export does. Each contender runs each batch in turn, with a pause before each run. The ratios are the
result. It measures the accuracy on embedded checkpoints, on the built-in texts that no range is measured on.
Contenders whose packages are not installed are left out, and named: pip install nncf ctranslate2 torchao. The tables go
to benchmarks/results/quantization.md.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import describe_machine, versions_of
from benchmarks.quantization.contenders import REFERENCE, Contender, left_out
from benchmarks.quantization.decoders import (
    DECODERS,
    NEW_TOKENS,
    PROMPT,
    WITH_ANOTHER_HEAD,
    decoder_accuracy,
    decoder_speeds,
)
from benchmarks.quantization.encoders import ENCODERS, encoder_accuracy, encoder_speeds
from benchmarks.quantization.onnxruntime_tools import BLOCK
from benchmarks.quantization.torch_tools import ENGINE

RESULTS: Final = Path(__file__).parents[1] / "results" / "quantization.md"
ACCURATE: Final = ("text-classification", "token-classification")
"""The encoders' tasks on whose embedded checkpoints the accuracy is measured."""
DISTRIBUTIONS: Final = (
    "onnxruntime",
    "openvino",
    "nncf",
    "torch",
    "torchao",
    "ctranslate2",
    "transformers",
    "rpln-export",
)


def main() -> None:
    """Measure everything, and write and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layers", type=int, default=12, help="fewer, to try the script")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    options = {"layers": arguments.layers, "threads": arguments.threads, "rounds": arguments.rounds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = [
            encoder_speeds(folder, **options),
            decoder_speeds(folder, **options),
            *(encoder_accuracy(task, folder, threads=arguments.threads) for task in ACCURATE),
            decoder_accuracy(folder, threads=arguments.threads),
        ]
    arguments.results.write_text("\n".join([_head(arguments.layers, arguments.threads), *tables]), encoding="utf-8")
    print(arguments.results.read_text(encoding="utf-8"))


def _head(layers: int, threads: int) -> str:
    machine = describe_machine(threads=threads)
    versions = ", ".join(f"{name} {version}" for name, version in versions_of(DISTRIBUTIONS).items())
    contenders: tuple[Contender[Any, Any], ...] = (*ENCODERS, *DECODERS, *WITH_ANOTHER_HEAD)
    missing = dict.fromkeys(left_out(row) for row in contenders if row.missing)
    return f"""# Quantized graphs

`python -m benchmarks.quantization`: how many times as fast as {REFERENCE}, the median of the ratios of all rounds.
Base size ({layers} layers of 768) with random weights; all contenders in one run, in turn.

{machine["processor"]}, {threads} threads, {machine["system"]}; {versions}.
{"".join(f"{chr(10)}{line}{chr(10)}" for line in missing)}
- All contenders of a table run the same weights, and graphs are this project's graph in fp32 but for its own forms.
  CTranslate2 has no converter for this architecture: the networks were put together from its layers. Its encoder gives
  the same outputs, with the head in torch; its decoder lacks GELU and LayerNorm in the head, so that only its speed is
  compared. It computes nothing on padding, as the packed forms do.
- ONNX Runtime's static int8: products with weights (MatMul and Gemm), per channel, ranges from the smallest to the
  largest value, on a graph prepared by `quant_pre_process`; it rounds what the products give out, too. "By default"
  takes all operators that it knows, per tensor.
- torch runs in eager mode, and its own dynamic int8 with the engine {ENGINE}; torchao's int8, which gains little in
  eager mode, runs compiled, with weights frozen and dynamic sizes.
- NNCF's compressed weights run with OpenVINO's dynamic quantization, which rounds activations in groups of 32.
- Decoders write {NEW_TOKENS} tokens after prompts of {PROMPT}, the likeliest each time, in a plain loop: ONNX Runtime
  gets its keys and values back as inputs, OpenVINO keeps them as state: by its own transformation, and for this
  project's graphs as the runtime does it. CTranslate2 and torch have loops of their own.
  MatMulNBits has symmetric blocks of {BLOCK}, rounded to nearest, and activations in 8 bits (accuracy level 4). NNCF's
  weights of 4 bits have symmetric blocks of 64.
- In the tables of accuracy, this project's graphs have ranges and weights as an export first tries them: rounded for
  their inputs in 4 bits, but without equalized channels and corrected biases, which it keeps where they help.
"""


if __name__ == "__main__":
    main()
