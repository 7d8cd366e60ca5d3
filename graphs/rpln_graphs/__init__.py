"""ONNX graphs of rpln_model's networks: how they are traced, rewritten, written in forms, fed, compiled and saved."""
