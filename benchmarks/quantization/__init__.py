"""Compares quantized graphs on a CPU in one run: this project's, and what other tools make of the same networks.

`python -m benchmarks.quantization` does it. benchmarks/README.md describes the files.
"""
