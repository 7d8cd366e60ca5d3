"""The output of commands: tables and text on stdout, progress on stderr."""
