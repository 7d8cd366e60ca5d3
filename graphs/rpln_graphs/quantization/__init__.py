"""What quantizes weights and activations: quantizers, observations of activations, and ranges chosen from them."""
