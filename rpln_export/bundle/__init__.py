"""What a bundle holds: its manifest, the graph from texts, the engines and the report."""
