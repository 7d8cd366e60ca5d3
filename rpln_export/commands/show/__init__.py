"""How results are shown: tables and text on stdout, progress on stderr."""
