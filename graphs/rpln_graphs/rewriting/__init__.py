"""The parts that passes are made of: base classes, questions about graphs, patterns, new nodes and changed weights."""
