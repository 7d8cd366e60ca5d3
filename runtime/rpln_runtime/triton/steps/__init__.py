"""What Triton's python backend runs: the steps around a model, and the generator. `serving` calls Triton's own API."""
