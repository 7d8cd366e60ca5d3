"""What else the machine does while it measures: its load, and the time that its host takes from it."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOST_STOLEN: Final = 0.02
"""The share of processor time that a host may take from a virtual machine before no winner is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineState:
    """The machine, and how busy it was.

    Attributes:
        system: the operating system and the kind of processor.
        cores: the number of cores.
        load: the processes that wanted a core in the minute before measuring, on average; None where it is unknown.
        stolen: the share of processor time that the host of a virtual machine took meanwhile; None where it is unknown.
    """

    system: str
    cores: int
    load: float | None
    stolen: float | None

    @property
    def reasons(self) -> list[str]:
        """Say why the machine is too busy to compare contenders on; nothing if it is calm."""
        found = []
        if self.load is not None and self.load > self.cores:
            found.append(f"the load was {self.load:.1f} on {self.cores} cores before the measurement began")
        if self.stolen is not None and self.stolen > MOST_STOLEN:
            found.append(f"the host took {self.stolen:.0%} of the processor time")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineWatch:
    """The state of the machine when measuring began."""

    load: float | None
    ticks: tuple[int, int] | None

    @classmethod
    def begin(cls) -> "MachineWatch":
        """Take note of the load, and of the processor time so far."""
        return cls(load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None, ticks=_ticks())

    def end(self) -> MachineState:
        """Return how busy the machine was since."""
        now, stolen = _ticks(), None
        if self.ticks is not None and now is not None and now[1] > self.ticks[1]:
            stolen = (now[0] - self.ticks[0]) / (now[1] - self.ticks[1])
        system = f"{platform.system()} {platform.machine()}"
        return MachineState(system=system, cores=os.cpu_count() or 1, load=self.load, stolen=stolen)


def _ticks() -> tuple[int, int] | None:
    """Return the stolen processor time and all processor time since the start, in ticks; None on other systems."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    # The fields are user, nice, system, idle, iowait, irq, softirq and steal (man 5 proc_stat).
    fields = [int(field) for field in path.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    return fields[7], sum(fields)
