"""Passes over onnx_ir models, one idea per file. CLEAN_UP runs after every trace; recipes and forms have the others."""

from typing import Final

from rpln_graphs.passes.fold_constants import FoldConstants
from rpln_graphs.passes.materialize_reshape import MaterializeReshape
from rpln_graphs.passes.name_values import NameValues
from rpln_graphs.passes.transpose_weights import TransposeWeights
from rpln_graphs.rewriting.base import CountingPass

CLEAN_UP: Final[tuple[type[CountingPass], ...]] = (TransposeWeights, FoldConstants, MaterializeReshape, NameValues)
"""The passes that run after every trace, in order."""
