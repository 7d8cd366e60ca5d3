"""What the package offers to Python: `export`, the bundle that it returns, and `push_to_hub`."""
