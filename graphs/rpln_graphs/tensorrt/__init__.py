"""TensorRT engines: built from graphs in standard operators, read back, and refused where they are not as asked."""
