"""Traces rpln_model's networks into onnx_ir graphs, rewrites them by recipe, measures, emulates and saves them."""
