"""What runs a graph: one file for each of ONNX Runtime, OpenVINO and TensorRT, and the table of providers."""
