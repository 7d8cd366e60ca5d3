"""How the embedded checkpoints were made: models trained on the Brown corpus."""
