"""The choice of an optimization profile of an engine for a batch."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from rpln_runtime.engines.manifest import EngineManifest, Profile
from rpln_runtime.errors import InputError
from rpln_runtime.manifest import TensorSpec
from rpln_runtime.tasks import BATCH, CHOICES, ENCODER_SEQUENCE, PAST, SEQUENCE

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of inputs, by name."""

_ADVICE: Final = {
    BATCH: "Choose a smaller batch_size",
    CHOICES: "Offer fewer choices",
    SEQUENCE: "Shorten the texts",
    ENCODER_SEQUENCE: "Shorten the texts",
    PAST: "Ask for fewer new tokens",
}
"""What to do where a size is too large, by the axis."""


def choose_profile(engine: EngineManifest, inputs: Sequence[TensorSpec], shapes: Shapes) -> int:
    """Return the number of the profile that takes `shapes`.

    If several do, it is the one that is tuned for the nearest sizes. Raises InputError, which names an axis and the
    sizes that the engine takes, if none does.
    """
    sizes = axis_sizes(inputs, shapes)
    fitting = [index for index, profile in enumerate(engine.profiles) if not _misfits(profile, sizes)]
    if fitting:
        return min(fitting, key=lambda index: _distance(engine.profiles[index], sizes))
    axis = min((_misfits(profile, sizes) for profile in engine.profiles), key=len)[0]
    small = sizes[axis] < min(profile[axis].minimum for profile in engine.profiles)
    advice = "Take larger inputs" if small else _ADVICE.get(axis, "Take smaller inputs")
    ranges = " or ".join(",".join(f"{name}={sizes}" for name, sizes in profile.items()) for profile in engine.profiles)
    wanted = ",".join(f"{name}={size}" for name, size in sizes.items())
    raise InputError(
        f"{engine.plan.path} does not take {wanted}: {axis}={sizes[axis]} is not in the sizes that it was built for, "
        f"{ranges} (minimum:tuned:maximum). {advice}, or build an engine for such sizes with --profile."
    )


def axis_sizes(inputs: Sequence[TensorSpec], shapes: Shapes) -> dict[str, int]:
    """Return the size of each axis in `shapes` that is not a sum of others."""
    return {
        axis: size
        for spec in inputs
        for axis, size in zip(spec.shape, shapes[spec.name], strict=True)
        if isinstance(axis, str) and "+" not in axis
    }


def _misfits(profile: Profile, sizes: Mapping[str, int]) -> list[str]:
    """Return the axes whose size is not in the profile."""
    return [axis for axis, row in profile.items() if not row.minimum <= sizes[axis] <= row.maximum]


def _distance(profile: Profile, sizes: Mapping[str, int]) -> float:
    """Return how far sizes are from those that the profile is tuned for: the sum of the logarithms of their ratios."""
    return sum(abs(math.log(sizes[axis] / row.optimum)) for axis, row in profile.items())
