"""A model of a repository as it is checked: a configuration of it, read, and where it lies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpln_runtime.triton.pbtxt import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """`name` is that of its folder, `role` a row of ROLES in `checking`, `file` that which `config` was read from."""

    name: str
    role: str
    folder: Path
    file: Path
    config: Message

    @property
    def version(self) -> Path:
        """The folder of its newest version."""
        return max(self.versions, key=lambda path: int(path.name), default=self.folder / "1")

    @property
    def versions(self) -> list[Path]:
        """The folders that Triton takes for versions."""
        return [
            path for path in self.folder.iterdir() if path.is_dir() and path.name.isdecimal() and path.name[0] != "0"
        ]

    @property
    def parameters(self) -> dict[str, Any]:
        """Settings of its backend."""
        return {
            row.get("key", ""): row.get("value", {}).get("string_value") for row in self.config.get("parameters", [])
        }
