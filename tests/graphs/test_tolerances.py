"""What fp32 and lower types accept, at its limits."""

import numpy as np
import pytest

from rpln_graphs.tolerances import ULP, Distance, NoiseTolerance, RangeTolerance, Yardstick

NOISE = NoiseTolerance(rms=2.0, largest=3.0, ulps=4.0)
OWN = Distance(rms=1e-6, largest=5e-6)
REACH = 2.0


@pytest.mark.parametrize(
    ("distance", "exact", "share"),
    [
        (Distance(rms=2e-6, largest=0.0), True, 1.0),
        (Distance(rms=0.0, largest=15e-6), True, 1.0),
        (Distance(rms=0.0, largest=30e-6), True, 2.0),
        # The other side is eager torch, which is off by its own noise.
        (Distance(rms=3e-6, largest=0.0), False, 1.0),
        (Distance(rms=0.0, largest=20e-6), False, 1.0),
        (Distance(rms=0.0, largest=0.0), True, 0.0),
        (Distance(rms=np.nan, largest=np.nan), True, np.inf),
    ],
)
def test_fp32_accepts_a_few_times_the_noise_of_eager_torch(distance: Distance, exact: bool, share: float) -> None:
    without_floor = NoiseTolerance(rms=2.0, largest=3.0, ulps=0.0)
    assert without_floor.share(distance, Yardstick(reach=REACH, noise=OWN), exact=exact) == pytest.approx(share)


def test_fp32_accepts_some_units_in_the_last_place_where_eager_torch_happens_to_be_exact() -> None:
    yardstick = Yardstick(reach=REACH, noise=Distance(rms=0.0, largest=0.0))
    floor = 4 * ULP * REACH
    assert NOISE.share(Distance(rms=floor, largest=floor), yardstick, exact=True) == pytest.approx(1.0)
    assert NOISE.share(Distance(rms=floor / 9, largest=2 * floor), yardstick, exact=True) == pytest.approx(2.0)


def test_lower_types_accept_a_share_of_the_range() -> None:
    tolerance = RangeTolerance(difference=0.02, argmax_agreement=0.995, resolution=2.0**-10)
    assert tolerance.share(Distance(rms=0.0, largest=0.04), Yardstick(reach=2.0), exact=False) == pytest.approx(1.0)
    assert tolerance.share(Distance(rms=0.0, largest=0.1), Yardstick(reach=2.0), exact=False) == pytest.approx(2.5)
