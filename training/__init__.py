"""How the embedded default checkpoint was made: a part-of-speech tagger trained on the Brown corpus."""
