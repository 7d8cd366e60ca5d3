"""rpln.json, the contract between exporter and runtime: what a bundle holds, how to feed it, and how it was proven.

Reading a manifest checks its schema, that no path leaves the folder, and size and SHA-256 of every file it names.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import UnionType
from typing import Any, Final, TypeAlias, get_args, get_origin, get_type_hints

from rpln_runtime.errors import ManifestError

SCHEMA_VERSION: Final = 3
MANIFEST_NAME: Final = "rpln.json"

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """A file of the bundle: its path relative to the folder (POSIX), its size in bytes and its SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A graph input or output: `shape` holds sizes and, for dynamic axes, their names (limits: `Manifest.axes`).

    `values` is how many values an integer input may hold, counted from 0; None where any goes.
    """

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    values: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """The range a dynamic axis may take, both ends included; `maximum` None means unbounded."""

    minimum: int
    maximum: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """The same graph written in another form, which the providers named run instead. Inputs and outputs are equal."""

    path: str
    form: str
    providers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """One ONNX graph of the bundle and the variant it serves: at `path` in standard operators, for any runtime."""

    variant: str
    path: str
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    form: str = "standard"
    rewritten: tuple[Rewritten, ...] = ()

    def path_for(self, provider: str) -> str:
        """The file that `provider` runs."""
        return next((row.path for row in self.rewritten if provider in row.providers), self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A form of a graph on a provider. `speedup` is against the standard form on the CPU; None where not measured."""

    variant: str
    form: str
    provider: str
    speedup: float | None
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimization:
    """How the forms of a bundle's graphs were chosen, and the settings that were measured with them.

    `provider` is what `load` runs where its caller names none; `threads` (None: as many as there are cores) and
    `spinning`, whether idle threads wait busily, go with it. `note` says in a sentence what was decided by what.
    """

    target: str
    workload: str
    provider: str
    threads: int | None
    spinning: bool | None
    candidates: tuple[Candidate, ...]
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What the steps of a decoder need to know. Ids are the decoder's own, which may differ from its encoder's.

    `first_position` is the position id of a sequence's first token, `pad_position` that of padding. `start_token_id`
    is what the decoder of an encoder-decoder begins with; None for a decoder that continues a prompt. `max_new_tokens`,
    and `max_length`, in which the prompt counts, are how far the checkpoint goes where its caller does not say.
    """

    pad_token_id: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    start_token_id: int | None
    first_position: int
    pad_position: int
    max_new_tokens: int | None = None
    max_length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The checkpoint that was exported: a folder's name or hub id, and the SHA-256 over its weights."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All a runtime must know to run a bundle.

    `usable_length`, in tokens with the special ones, and the ids below it are those of what the tokenizer's output is
    fed to: the encoder, where there is one.
    """

    task: str
    graphs: tuple[Graph, ...]
    axes: dict[str, Axis]
    usable_length: int
    vocab_size: int
    type_vocab_size: int
    pad_token_id: int
    mask_token_id: int | None
    problem_type: str | None
    labels: tuple[str, ...]
    precision: str
    recipe: str
    passes: dict[str, int]
    target: str
    source: Source
    versions: dict[str, str]
    validation: Json
    generation: Generation | None = None
    optimization: Optimization | None = None
    files: tuple[BundleFile, ...] = ()
    schema_version: int = field(default=SCHEMA_VERSION)


def read_manifest(folder: Path, *, verify: bool = True) -> Manifest:
    """Read and check `folder`/rpln.json; with `verify`, also hash every file it names.

    Raises ManifestError for a missing, foreign or altered bundle.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ManifestError(f"{folder} holds no {MANIFEST_NAME}: expected a bundle. Make one with rpln-export.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path} is not valid JSON ({error}). Export the checkpoint again.") from error
    found = document.get("schema_version") if isinstance(document, dict) else None
    if found != SCHEMA_VERSION:
        raise ManifestError(
            f"{path} has schema version {found!r}, this rpln-runtime reads {SCHEMA_VERSION}. "
            "Export the checkpoint again, or install the rpln-runtime that matches the bundle."
        )
    try:
        manifest: Manifest = value_from_json(Manifest, document, "the manifest")
    except TypeError as error:
        raise ManifestError(f"{path} breaks schema {SCHEMA_VERSION}: {error}. Export the checkpoint again.") from error
    if not manifest.graphs:
        raise ManifestError(f"{path} lists no graph. Export the checkpoint again.")
    for file in manifest.files:
        _check_file(folder, file, verify=verify)
    for graph in manifest.graphs:
        _check_graph(path, graph, manifest)
    return manifest


def write_manifest(
    folder: Path, manifest: Manifest, *, without: Collection[str] = (), known: Collection[BundleFile] = ()
) -> None:
    """Write `manifest` as `folder`/rpln.json, its file list made anew from what the folder holds.

    Files of `without`, paths relative to the folder, are about to go and are left out. Files of `known` are as they are
    described there, and are not read again.
    """
    files = files_of_folder(folder, without=without, known=known)
    document = dataclasses.asdict(dataclasses.replace(manifest, files=files))
    written = folder / f".{MANIFEST_NAME}"
    written.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    written.replace(folder / MANIFEST_NAME)  # a reader finds the old one or the new one


def files_of_folder(
    folder: Path, *, without: Collection[str] = (), known: Collection[BundleFile] = ()
) -> tuple[BundleFile, ...]:
    """Describe all files of a bundle but its manifest and hidden files, which are unfinished; see `write_manifest`."""
    described = {file.path: file for file in known}
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return tuple(
        described.get(name) or bundle_file_from_path(folder, path)
        for name, path in paths.items()
        if name not in {MANIFEST_NAME, *without} and not any(part.startswith(".") for part in name.split("/"))
    )


def bundle_file_from_path(folder: Path, path: Path) -> BundleFile:
    """Describe the file `path` that lies in `folder`."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return BundleFile(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=digest)


def _check_file(folder: Path, file: BundleFile, *, verify: bool) -> None:
    parts = PurePosixPath(file.path)
    foreign = PureWindowsPath(file.path).anchor or "\\" in file.path or "\0" in file.path
    if parts.is_absolute() or ".." in parts.parts or foreign:
        raise ManifestError(f"{MANIFEST_NAME} names {file.path!r}, which leaves the folder {folder}. Do not use it.")
    path = folder / parts
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ManifestError(f"{path} is a link that leaves the folder {folder}. Do not use it.")
    if not path.is_file():
        raise ManifestError(f"{path} is missing. Copy the whole bundle, or export the checkpoint again.")
    if path.stat().st_size != file.size:
        raise ManifestError(
            f"{path} has {path.stat().st_size:,} bytes, the manifest says {file.size:,}: a truncated or altered copy. "
            "Copy the bundle again."
        )
    if verify and bundle_file_from_path(folder, path) != file:
        raise ManifestError(f"{path} differs from what was exported (SHA-256). Copy the bundle again.")


def _check_graph(path: Path, graph: Graph, manifest: Manifest) -> None:
    listed = {file.path for file in manifest.files}
    for file in (graph.path, *(row.path for row in graph.rewritten)):
        if file not in listed:
            raise ManifestError(f"{path} lists no file {file!r} for its graph. Export the checkpoint again.")
    axes = {axis for spec in graph.inputs for axis in spec.shape if isinstance(axis, str)}
    if unknown := axes - manifest.axes.keys():
        raise ManifestError(
            f"{path} gives no limits for the axes {', '.join(sorted(unknown))} of {graph.path!r}. "
            "Export the checkpoint again."
        )


def value_from_json(hint: Any, value: Any, where: str) -> Any:
    """Read `value` as the type `hint`: a dataclass or None, a tuple, a dict, a plain type, or a union of plain types.

    Raises TypeError that names `where` in the document it is something else.
    """
    if dataclasses.is_dataclass(hint):
        return _dataclass_from_json(hint, value, where)
    origin, arguments = get_origin(hint), get_args(hint)
    if value is not None and origin is UnionType and dataclasses.is_dataclass(arguments[0]):
        return _dataclass_from_json(arguments[0], value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(value_from_json(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: value_from_json(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    # Not isinstance: a bool is an int to Python, and no size or id.
    if hint is Any or type(value) in (arguments if origin is UnionType else (hint,)):
        return value
    raise TypeError(f"{where} is {value!r}, expected {hint.__name__ if origin is None else hint}")


def _dataclass_from_json(row: Any, value: Any, where: str) -> Any:
    names = [field.name for field in dataclasses.fields(row)]
    if not isinstance(value, dict) or value.keys() != set(names):
        found = sorted(value) if isinstance(value, dict) else value
        raise TypeError(f"{where} holds {found!r}, expected {sorted(names)}")
    hints = get_type_hints(row)
    return row(**{name: value_from_json(hints[name], value[name], f"{where}.{name}") for name in names})
