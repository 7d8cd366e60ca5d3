"""TARGETS: one row per kind of machine that a graph is written for, and what of it is measured here."""

from dataclasses import dataclass
from typing import Final

from rpln_graphs.forms import FORMS, STANDARD, Form


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A row.

    `providers` are those that may run here, each with the forms that are measured on it; `default` is the form where
    nothing can be, for `because`. Where the graph is `compiled` elsewhere, or for any runtime, model.onnx itself is
    written in the form, which must be of standard operators then.
    """

    name: str
    providers: dict[str, tuple[str, ...]]
    default: Form
    because: str
    compiled: bool = False


TARGETS: Final = {
    row.name: row
    for row in (
        Target(
            name="cpu",
            providers={
                "cpu": tuple(FORMS),
                # It fuses by itself; what else is in standard operators has gained nothing there.
                "openvino": ("standard", "packed"),
            },
            default=STANDARD,
            because="on CPUs fused operators have gained nothing",
        ),
        Target(
            name="cuda",
            providers={"cuda": tuple(FORMS)},
            default=FORMS["fused"],
            because="fused operators are what ONNX Runtime's CUDA kernels are made for",
        ),
        Target(
            name="tensorrt",
            providers={},
            default=STANDARD,
            because="TensorRT fuses attention where it is written out, and the operator gained nothing",
            compiled=True,
        ),
        Target(
            name="portable",
            providers={},
            default=STANDARD,
            because="every runtime has these operators",
            compiled=True,
        ),
    )
}
