"""TARGETS: one row per kind of machine that a graph is written for, with what of it can be measured here."""

from dataclasses import dataclass
from typing import Final

from rpln_graphs.forms import ALL_FORMS, FORMS, INT8_FORMS, STANDARD, Form


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A kind of machine.

    Attributes:
        name: what the user calls it.
        providers: the providers that may run here, each with the forms that are measured on it.
        default: the form that is taken where nothing can be measured.
        because: why that form is the default, as a clause after "because".
        compiled: whether model.onnx itself is compiled elsewhere, or read by any runtime. If so, model.onnx has the
            chosen form, which must consist of standard operators.
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
                "cpu": tuple(ALL_FORMS),
                # OpenVINO fuses by itself; the other forms in standard operators have gained nothing there. It computes
                # in integers what has scales of its own, and products with weights in blocks.
                "openvino": (
                    *("standard", "packed", "weights-8", "weights-4"),
                    *(name for name, form in INT8_FORMS.items() if form.calibrated),
                ),
            },
            default=STANDARD,
            because="fused operators have gained nothing on CPUs",
        ),
        Target(
            name="cuda",
            providers={"cuda": tuple(FORMS)},
            default=FORMS["fused"],
            because="ONNX Runtime's CUDA kernels are made for fused operators",
        ),
        Target(
            name="tensorrt",
            providers={},
            default=STANDARD,
            because="TensorRT fuses attention that is written out, and the Attention operator gained nothing",
            compiled=True,
        ),
        Target(
            name="portable",
            providers={},
            default=STANDARD,
            because="every runtime has its operators",
            compiled=True,
        ),
    )
}
