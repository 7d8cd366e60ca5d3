"""Tells which version of transformers is installed, and marks tests that need 4.57 to compare with."""

from importlib.metadata import version

from packaging.version import Version

TRANSFORMERS_4 = Version(version("transformers")) < Version("5")

# transformers 5 has only absolute positions, and no head_mask, masks of three dimensions, pruning or tuples as caches.
POSITION_TYPES = ("absolute", "relative_key", "relative_key_query") if TRANSFORMERS_4 else ("absolute",)
HEAD_MASKS = ("none", "heads", "layers_and_heads") if TRANSFORMERS_4 else ("none",)
CROSS_MASKS = ("none", "padding", "queries_by_keys") if TRANSFORMERS_4 else ("none", "padding")
SELF_MASKS = ("boolean", "float", "fractions", "queries_by_keys") if TRANSFORMERS_4 else ("boolean", "float")
PASTS = ("tuple", "dynamic", "encoder_decoder") if TRANSFORMERS_4 else ("dynamic", "encoder_decoder")
