"""Graphs of rpln_model's networks: traced into onnx_ir, rewritten by recipe, measured, emulated and saved."""
