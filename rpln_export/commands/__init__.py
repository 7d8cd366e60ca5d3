"""The commands, one file each. They import torch and the like when they run, so that --help answers at once."""
