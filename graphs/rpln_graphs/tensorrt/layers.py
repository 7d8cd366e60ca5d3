"""The kernels of a built engine, read from the builder's log, or from an inspector where a GPU can load the engine."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rpln_runtime.engines.manifest import Layer

DTYPES: Final = {
    "Float": "float32",
    "FP32": "float32",
    "Half": "float16",
    "FP16": "float16",
    "BFloat16": "bfloat16",
    "BF16": "bfloat16",
    "Int64": "int64",
    "INT64": "int64",
    "Int32": "int32",
    "INT32": "int32",
    "Int4": "int4",
    "INT4": "int4",
    "Int8": "int8",
    "INT8": "int8",
    "FP8": "float8_e4m3fn",
    "Bool": "bool",
    "BOOL": "bool",
}
"""The names of types in TensorRT's log and tensor formats, with their names in numpy."""

_LINE: Final = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: (?P<inputs>\[.*\]), Constants: (?P<constants>\[.*\]), "
    r"Outputs: (?P<outputs>\[.*\]), TacticName: .*?Metadata: ?(?P<nodes>.*)$",
    re.MULTILINE,
)
_DATATYPE: Final = re.compile(r"Datatype: (\w+)")
_NODE: Final = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_WORD: Final = re.compile(r"\w+")
_GROUP: Final = re.compile(r"_myl(\d+)_\d+$")
_PROFILE: Final = re.compile(r"\[profile (\d+)\]")


def layers_from_log(text: str) -> tuple[Layer, ...]:
    """Return the kernels that a log of severity VERBOSE lists, for an engine built with verbosity DETAILED."""
    found = [match.groupdict() for match in _LINE.finditer(text)]
    profiles = _profiles_of_groups((row["name"], f"{row['name']} {row['inputs']} {row['outputs']}") for row in found)
    return tuple(
        Layer(
            name=row["name"],
            kind=row["kind"],
            nodes=_nodes(row["nodes"]),
            inputs=_dtypes(_DATATYPE.findall(row["inputs"] + row["constants"])),
            outputs=_dtypes(_DATATYPE.findall(row["outputs"])),
            profile=profiles[_group(row["name"])],
        )
        for row in found
    )


def layers_from_inspection(document: Mapping[str, Any]) -> tuple[Layer, ...]:
    """Return the kernels in the JSON of an EngineInspector of TensorRT 10 or 11."""
    found: Sequence[Mapping[str, Any]] = document["Layers"]
    profiles = _profiles_of_groups((row["Name"], str(row)) for row in found)
    return tuple(
        Layer(
            name=row["Name"],
            kind=row["LayerType"],
            nodes=_nodes(row.get("Metadata", "")),
            inputs=_dtypes(_datatype(tensor) for tensor in (*row["Inputs"], *row.get("Constants", ()))),
            outputs=_dtypes(_datatype(tensor) for tensor in row["Outputs"]),
            profile=profiles[_group(row["Name"])],
        )
        for row in found
    )


def _profiles_of_groups(rows: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Return the profile of each group of kernels. Only kernels at a group's edge name it; without a number it is 0."""
    profiles: dict[str, int] = {}
    for name, text in rows:
        group = _group(name)
        named = [int(number) for number in _PROFILE.findall(text)]
        profiles[group] = max([profiles.get(group, 0), *named])
    return profiles


def _group(name: str) -> str:
    """Return the group of a kernel: those compiled together end with the same number, such as 1 in ..._myl1_7."""
    found = _GROUP.search(name)
    return found[1] if found else name


def _nodes(metadata: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_NODE.findall(metadata)))


def _datatype(tensor: Mapping[str, Any]) -> str:
    """Return TensorRT's name of a tensor's type, which version 10 may write as "Row major linear FP16 format"."""
    told = str(tensor["Datatype"] if "Datatype" in tensor else tensor["Format/Datatype"])
    return next((word for word in _WORD.findall(told) if word in DTYPES), told)


def _dtypes(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(DTYPES.get(name, name) for name in names)
