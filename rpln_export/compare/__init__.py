"""Looking at bundles and graphs, comparing two of them, and rewriting ONNX files from elsewhere."""
