"""Measures bundles on an NVIDIA GPU, also on a machine that is lent for minutes, without a network.

`python -m benchmarks.gpu.prepare` makes all that such a machine lacks, in pieces that are small enough to send.
`python -m benchmarks.gpu.run` unpacks them there, and measures. benchmarks/README.md describes both.
"""
