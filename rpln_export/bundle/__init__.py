"""Writing a bundle: its manifest, the graph from texts, the engines and the report."""
