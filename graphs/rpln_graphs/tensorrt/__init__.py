"""TensorRT engines: built from graphs in standard operators, read back, and refused if they are not as asked."""
