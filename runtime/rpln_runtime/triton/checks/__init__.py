"""What a repository is checked for, a file for each kind of model and `common` for all: problems, a sentence each."""
