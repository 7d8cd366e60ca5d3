"""What Triton's python backend runs: the steps around a model, and the generator. `serving` speaks to Triton itself."""
