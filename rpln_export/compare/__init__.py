"""Graphs and bundles looked at and compared with each other, and ONNX files from elsewhere rewritten."""
