"""Engines: what runs a graph. There is a file for each of ONNX Runtime and OpenVINO, and a folder for TensorRT."""
