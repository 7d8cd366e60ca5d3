"""Reading a checkpoint: from a folder, hub id or fairseq file to a model, its tokenizer and the planned graphs."""
