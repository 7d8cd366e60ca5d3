"""A model of a repository as the checks see it: one of its configurations, read, and the folder that it lies in."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpln_runtime.triton.checks.reading import enum_name
from rpln_runtime.triton.parts import tensor
from rpln_runtime.triton.pbtxt import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model and one of its configurations.

    Attributes:
        name: the name of the model's folder.
        role: a row of ROLES in `rpln_runtime.triton.checking`.
        file: the file that `config` was read from.
        config: an `inference.ModelConfig`, as `read_config` returns it.
    """

    name: str
    role: str
    folder: Path
    file: Path
    config: Any

    @property
    def versions(self) -> list[Path]:
        """The folders that Triton takes for versions."""
        return [
            path for path in self.folder.iterdir() if path.is_dir() and path.name.isdecimal() and path.name[0] != "0"
        ]

    @property
    def parameters(self) -> dict[str, str]:
        """The settings of the backend, by name."""
        return {entry.key: entry.value.string_value for entry in self.config.parameters}

    @property
    def inputs(self) -> list[Message]:
        """The inputs, in the form that `parts.tensor` gives them."""
        return _tensors(self.config.input)

    @property
    def outputs(self) -> list[Message]:
        """The outputs, in the form that `parts.tensor` gives them."""
        return _tensors(self.config.output)

    @property
    def sides(self) -> dict[str, list[Message]]:
        """Inputs and outputs, by the name of their field."""
        return {"input": self.inputs, "output": self.outputs}

    @property
    def kinds(self) -> list[str]:
        """What each group of instances runs on, such as KIND_GPU."""
        return [enum_name(group, "kind") for group in self.config.instance_group]


def _tensors(found: Iterable[Any]) -> list[Message]:
    return [
        tensor(one.name, enum_name(one, "data_type"), *one.dims)
        | ({"optional": True} if getattr(one, "optional", False) else {})  # which an output has not
        for one in found
    ]
