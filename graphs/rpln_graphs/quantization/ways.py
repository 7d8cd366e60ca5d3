"""Ways to quantize a graph statically: how its weights and biases are prepared, and how ranges are chosen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from rpln_graphs.quantization.equalize import equalized, factors_from_observed
from rpln_graphs.quantization.observe import Observed
from rpln_graphs.quantization.quantizers import ChannelValues
from rpln_graphs.quantization.range_methods import RANGE_METHODS, RangeMethod, quantizers_from_observed
from rpln_graphs.rewriting.base import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """A way to prepare weights and biases.

    Attributes:
        name: what is done, as reports say it; empty where nothing is.
        equalizes: whether channels of activations are equalized.
        corrects: whether biases are corrected for the rounding of weights.
    """

    name: str
    equalizes: bool = False
    corrects: bool = False


PREPARATIONS: Final = (
    Preparation(name=""),
    Preparation(name="equalized", equalizes=True),
    Preparation(name="equalized and corrected", equalizes=True, corrects=True),
)
"""The preparations that an export tries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How weights and biases are prepared, and how the ranges of activations are chosen."""

    ranges: RangeMethod
    preparation: Preparation

    @property
    def name(self) -> str:
        """The way in words, such as "min-max, equalized"."""
        return ", ".join(filter(None, (self.ranges.name, self.preparation.name)))


WHOLE_RANGE: Final = next(iter(RANGE_METHODS.values()))
PLAIN: Final = Way(ranges=WHOLE_RANGE, preparation=PREPARATIONS[0])
"""The way that prepares nothing and clips nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was measured on texts.

    Attributes:
        observed: what was seen of each activation.
        factors: what channels are divided by where they are equalized.
        equalized: what would then have been seen.
    """

    observed: Mapping[str, Observed]
    factors: ChannelValues
    equalized: Mapping[str, Observed]

    def context(self, way: Way, dtype: ir.DataType = ir.DataType.UINT8) -> Context:
        """Return what the passes of a static form need to quantize a graph in this way, rounded to `dtype`."""
        equalizes, corrects = way.preparation.equalizes, way.preparation.corrects
        seen = self.equalized if equalizes else self.observed
        return Context(
            quantizers=quantizers_from_observed(seen, way.ranges, dtype=dtype),
            factors=self.factors if equalizes else {},
            means={name: one.means for name, one in seen.items()} if corrects else {},
        )


def calibration_from_observed(
    model: ir.Model, observed: Mapping[str, Observed], *, equalizes: bool = True
) -> Calibration:
    """Return the calibration of `model`, of whose activations this was seen; without `equalizes`, it has no factors."""
    factors = factors_from_observed(model, observed) if equalizes else {}
    return Calibration(observed=observed, factors=factors, equalized=equalized(model, observed, factors))
