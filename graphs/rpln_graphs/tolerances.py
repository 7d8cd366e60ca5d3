"""The limits within which validation takes two outputs for equal, in fp32 and in lower types."""

import math
from dataclasses import dataclass
from typing import ClassVar, Final

ULP: Final = 2.0**-23
"""The spacing of fp32's numbers, relative to the power of two below them: a unit in the last place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """How far two arrays are from each other: the root of the mean square of the differences, and the largest one."""

    rms: float
    largest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """What differences of one output are measured with.

    Attributes:
        reach: the largest magnitude of the output by eager torch.
        noise: how far eager torch's own output is from the same computation in fp64; for quantized graphs, how far
            rounding alone takes the output from eager torch; None where neither is measured.
    """

    reach: float
    noise: Distance | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseTolerance:
    """The limits of fp32: an output may be a few times as far from fp64 as eager torch's own output is.

    Rounding in another order makes an error of the same size, whatever the network and its range; a fault adds to it.

    Attributes:
        rms: how many times the rms of eager torch's distance is accepted.
        largest: how many times the largest of eager torch's differences is accepted.
        ulps: what is accepted beyond that, in units in the last place of the output's reach.
    """

    rms: float
    largest: float
    ulps: float
    wants_exact: ClassVar[bool] = True
    relative_to_range: ClassVar[bool] = False
    argmax_agreement: ClassVar[None] = None
    resolution: ClassVar[float] = 0.0

    def share(self, distance: Distance, yardstick: Yardstick, *, exact: bool) -> float:
        """Return how large `distance` is relative to what is accepted: at most 1 where it is.

        With `exact`, the distance is from fp64; without, from eager torch's output, which is off by its own noise.
        """
        assert yardstick.noise is not None
        own, floor = 0 if exact else 1, self.ulps * ULP * yardstick.reach
        return max(
            _ratio(distance.rms, (self.rms + own) * yardstick.noise.rms + floor),
            _ratio(distance.largest, (self.largest + own) * yardstick.noise.largest + floor),
        )

    def in_words(self) -> str:
        """Return what is accepted, as a clause."""
        return (
            f"a distance from fp64 of at most {self.rms:g} times eager torch's own (rms; {self.largest:g} times in a "
            f"single value), plus {self.ulps:g} units in the last place of the output's range"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeTolerance:
    """The limits of lower types: a difference from eager fp32 torch of at most a share of the output's reach.

    Attributes:
        difference: that share.
        argmax_agreement: the smallest share of equal argmaxes.
        resolution: the spacing of the type's numbers, relative to the largest magnitude. Candidates that are closer to
            each other are a tie, which the type cannot decide, and their argmax is not counted.
    """

    difference: float
    argmax_agreement: float
    resolution: float
    wants_exact: ClassVar[bool] = False
    relative_to_range: ClassVar[bool] = True

    def share(self, distance: Distance, yardstick: Yardstick, *, exact: bool) -> float:  # noqa: ARG002 # as above
        """Return how large `distance` from eager torch is relative to what is accepted: at most 1 where it is."""
        return _ratio(distance.largest, self.difference * yardstick.reach)

    def in_words(self) -> str:
        """Return what is accepted, as a clause."""
        return (
            f"a difference from eager torch of at most {self.difference:g} of the output's range, and equal argmaxes "
            f"in {self.argmax_agreement:.1%} of the places"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundingTolerance:
    """The limits of quantized graphs: they may be a few times as far from eager torch as rounding makes them.

    What rounding makes is measured: the same graph runs operator by operator, in fp32, with every rounding that is
    written into it. How far that may be from eager torch is not for a tolerance to say, but for the gate, on texts.

    Attributes:
        rms: how many times the rms of that distance is accepted.
        largest: how many times the largest of its differences is accepted.
        resolution: what is accepted beyond that, relative to the output's reach.
    """

    rms: float
    largest: float
    resolution: float
    wants_exact: ClassVar[bool] = False
    relative_to_range: ClassVar[bool] = True
    argmax_agreement: ClassVar[None] = None

    def share(self, distance: Distance, yardstick: Yardstick, *, exact: bool) -> float:  # noqa: ARG002 # as above
        """Return how large `distance` from eager torch is relative to what is accepted: at most 1 where it is."""
        assert yardstick.noise is not None
        floor = self.resolution * yardstick.reach
        return max(
            _ratio(distance.rms, self.rms * yardstick.noise.rms + floor),
            _ratio(distance.largest, self.largest * yardstick.noise.largest + floor),
        )

    def in_words(self) -> str:
        """Return what is accepted, as a clause."""
        return (
            f"a distance from eager torch of at most {self.rms:g} times that of the same graph computed operator by "
            f"operator (rms; {self.largest:g} times in a single value), plus {self.resolution:.2g} of its range"
        )


Tolerance = NoiseTolerance | RangeTolerance | RoundingTolerance


def _ratio(found: float, accepted: float) -> float:
    """Return a distance relative to the accepted one; infinity where it is not a number."""
    if math.isnan(found) or (found and not accepted):
        return math.inf
    return found / accepted if found else 0.0
