"""The checks of a repository: a file for each kind of model, and `common` for all of them. Problems are sentences."""
