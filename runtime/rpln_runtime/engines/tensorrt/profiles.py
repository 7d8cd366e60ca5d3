"""Which optimization profile of an engine serves a batch."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from rpln_runtime.engines.manifest import EngineManifest, Profile
from rpln_runtime.errors import InputError
from rpln_runtime.manifest import TensorSpec
from rpln_runtime.tasks import BATCH, CHOICES, ENCODER_SEQUENCE, PAST, SEQUENCE

Shapes = Mapping[str, tuple[int, ...]]

_ADVICE: Final = {
    BATCH: "Choose a smaller batch_size",
    CHOICES: "Offer fewer choices",
    SEQUENCE: "Shorten the texts",
    ENCODER_SEQUENCE: "Shorten the texts",
    PAST: "Ask for fewer new tokens",
}


def choose_profile(engine: EngineManifest, inputs: Sequence[TensorSpec], shapes: Shapes) -> int:
    """The number of the profile that takes `shapes`, and of several the one tuned for the nearest.

    Raises InputError, naming an axis and what the engine takes, where none does.
    """
    sizes = axis_sizes(inputs, shapes)
    fitting = [index for index, profile in enumerate(engine.profiles) if not _misfits(profile, sizes)]
    if fitting:
        return min(fitting, key=lambda index: _distance(engine.profiles[index], sizes))
    axis = min((_misfits(profile, sizes) for profile in engine.profiles), key=len)[0]
    small = sizes[axis] < min(profile[axis].minimum for profile in engine.profiles)
    advice = "Take more" if small else _ADVICE.get(axis, "Take fewer")
    ranges = " or ".join(",".join(f"{name}={sizes}" for name, sizes in profile.items()) for profile in engine.profiles)
    wanted = ",".join(f"{name}={size}" for name, size in sizes.items())
    raise InputError(
        f"{engine.plan.path} takes no {axis} of {sizes[axis]} with {wanted}: it was built for {ranges} "
        f"(minimum:tuned:maximum). {advice}, or build it with --profile for such sizes."
    )


def axis_sizes(inputs: Sequence[TensorSpec], shapes: Shapes) -> dict[str, int]:
    """The size of each axis that follows from no others."""
    return {
        axis: size
        for spec in inputs
        for axis, size in zip(spec.shape, shapes[spec.name], strict=True)
        if isinstance(axis, str) and "+" not in axis
    }


def _misfits(profile: Profile, sizes: Mapping[str, int]) -> list[str]:
    return [axis for axis, row in profile.items() if not row.minimum <= sizes[axis] <= row.maximum]


def _distance(profile: Profile, sizes: Mapping[str, int]) -> float:
    return sum(abs(math.log(sizes[axis] / row.optimum)) for axis, row in profile.items())
