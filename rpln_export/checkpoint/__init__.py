"""From a folder, hub id or fairseq file to a model, its tokenizer and the graphs that are planned of it."""
