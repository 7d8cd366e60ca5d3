"""The commands, a file each. What one needs is imported when it runs: `--help` must not wait for torch."""
