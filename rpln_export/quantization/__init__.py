"""Quantization of an export's graphs: ranges from calibration texts, and the gate that their accuracy must pass."""
