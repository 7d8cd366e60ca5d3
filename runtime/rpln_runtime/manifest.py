"""The manifest of a bundle, `rpln.json`: the contract between the exporter, which writes it, and every runtime.

It describes the graphs, how to feed them, and how they were made and validated. Reading it checks its schema, that it
agrees with itself and with what is known of its task (`rpln_runtime.facts`), that no path leads out of the folder, and
the size and SHA-256 of every file that it lists, the files of the graphs' weights among them. Links out of the folder
are followed only where the Hugging Face hub's cache has them, from a snapshot into its blobs.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import UnionType
from typing import Any, Final, TypeAlias, get_args, get_origin, get_type_hints

from rpln_runtime.described import Described, megabytes
from rpln_runtime.documents import DocumentError, read_document, shown
from rpln_runtime.errors import ManifestError
from rpln_runtime.external_data import NotOnnxError, external_files
from rpln_runtime.facts import RIGHT, contradiction
from rpln_runtime.limits import MANIFEST, MOST_NAME_BYTES, MOST_PATH_BYTES, OPTIONAL_FIELDS, range_of_field
from rpln_runtime.replacing import recover

SCHEMA_VERSION: Final = 3
"""The version of the manifest's schema that this package reads and writes."""
MANIFEST_NAME: Final = "rpln.json"
"""The file of the manifest in the folder of a bundle."""
UNFINISHED_MANIFEST: Final = f".{MANIFEST_NAME}"
"""The name of that file while it is written. A process that is killed meanwhile leaves it behind."""

Json: TypeAlias = dict[str, Any]
"""A JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """A file of a bundle.

    Attributes:
        path: the path relative to the folder, with `/` between its parts.
        size: the size in bytes.
        sha256: the SHA-256 of the content, in hexadecimal.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output of a graph.

    Attributes:
        name: the name in the graph.
        dtype: the dtype by numpy's name; "bfloat16" for the type that numpy does not have.
        shape: a size for each fixed axis, and a name for each dynamic one. `Manifest.axes` has their limits.
        values: for integers, the values are 0 to `values` - 1. None if the values have no limits.
    """

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    values: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """The sizes that a dynamic axis may have.

    Attributes:
        minimum: the smallest size.
        maximum: the largest size; None if only memory limits it.
    """

    minimum: int
    maximum: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A graph in another form, for certain providers. It has the inputs and outputs of the graph in standard operators.

    Attributes:
        path: the ONNX file, relative to the folder.
        form: the name of the form, a row of `rpln_graphs.forms.FORMS`.
        providers: the providers that run this form.
    """

    path: str
    form: str
    providers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """An ONNX graph of a bundle.

    Attributes:
        variant: what the graph is for: a row of `rpln_graphs.variants.VARIANTS`, such as "full" or "decode".
        path: the ONNX file in standard operators, relative to the folder. Any ONNX runtime can run it.
        opset: the version of the standard operators.
        inputs: the inputs, in the order of the graph.
        outputs: the outputs, in the order of the graph.
        form: the name of the form of the file at `path`.
        rewritten: the same graph in other forms.
    """

    variant: str
    path: str
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    form: str = "standard"
    rewritten: tuple[Rewritten, ...] = ()

    def path_for(self, provider: str) -> str:
        """Return the ONNX file that `provider` runs, relative to the folder."""
        return next((row.path for row in self.rewritten if provider in row.providers), self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A form of a graph that was considered for a provider.

    Attributes:
        variant: the variant of the graph.
        form: the name of the form.
        provider: the provider that ran it.
        speedup: how many times as fast it is as the standard form on the first provider, as the median of the rounds;
            None if it was not measured. Processor time decides on the CPU, unless it clearly takes longer.
        outcome: whether it was chosen or only measured, or why it was not measured.
        speedup_low: the lower end of the interval that the true speedup lies in; None if it was not measured.
        speedup_high: the upper end of that interval.
    """

    variant: str
    form: str
    provider: str
    speedup: float | None
    outcome: str
    speedup_low: float | None = None
    speedup_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimization:
    """How the forms of a bundle's graphs were chosen.

    Attributes:
        target: the kind of machine that the graphs were written for, a row of `rpln_export.plan.targets.TARGETS`.
        workload: the name of the batches that were measured.
        provider: the provider that runs the bundle if its user names none.
        threads: the most threads of one operator on that provider; None means one for each core.
        spinning: whether idle threads wait in a busy loop on that provider; None means the provider's default.
        candidates: the forms that were considered, on each provider.
        note: a sentence that says what was decided and why.
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
    """What the steps of a decoder need to know.

    All ids are those of the decoder. In an encoder-decoder, those of the encoder may differ; the manifest has them.

    Attributes:
        pad_token_id: the id of padding.
        bos_token_id: the id that a text begins with; None if there is none.
        eos_token_ids: the ids that end a text.
        start_token_id: the id that the decoder of an encoder-decoder starts with; None for a decoder that continues
            prompts.
        first_position: the position id of a sequence's first token.
        pad_position: the position id of padding.
        max_new_tokens: the most new tokens where the user says nothing; None if the checkpoint does not say.
        max_length: the most tokens, prompt included, where the user says nothing; None if the checkpoint does not say.
        defaults: other options of `rpln_runtime.GenerationOptions` that the checkpoint sets, by name.
    """

    pad_token_id: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    start_token_id: int | None
    first_position: int
    pad_position: int
    max_new_tokens: int | None = None
    max_length: int | None = None
    defaults: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentences:
    """How texts become vectors, as in sentence-transformers.

    Attributes:
        poolings: how the graph pools the hidden states of a text's tokens to its `sentence_embedding`; empty if it
            gives the hidden states themselves.
        max_length: the number of tokens that a text is cut to, special tokens and prompt included. None means that a
            text that is too long is refused.
        prompts: the texts that can be put before a text, by name.
        default_prompt: the name of the prompt that is put there if the user chooses none; None for no prompt.
        include_prompt: whether the tokens of a prompt are pooled, too. Otherwise no prompt can be put before a text,
            because the graph pools all tokens.
    """

    poolings: tuple[str, ...]
    max_length: int | None
    prompts: dict[str, str]
    default_prompt: str | None
    include_prompt: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The checkpoint that was exported.

    Attributes:
        name: the name of its folder, or its hub id.
        sha256: the SHA-256 over its weight files, in hexadecimal. After those of the network come those of
            an adapter, with its adapter_config.json, and those of Dense layers.
        adapter: the type of the peft adapter that was merged and the name of the network that it was merged into; None
            if there was none.
    """

    name: str
    sha256: str
    adapter: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Manifest(Described):
    """What a runtime must know to run a bundle, and how the bundle was made.

    In an encoder-decoder, the tokenizer feeds the encoder: `usable_length` and the ids are then those of the encoder.

    Attributes:
        task: a row of `rpln_runtime.tasks.TASKS`.
        graphs: the graphs. The first is the one that is run by default.
        axes: the sizes that each dynamic axis may have, by its name.
        usable_length: the most tokens of a text, special tokens included.
        vocab_size: the number of token ids.
        type_vocab_size: the number of token types.
        pad_token_id: the id of padding.
        mask_token_id: the id of the mask token; None if the tokenizer has none.
        problem_type: the `problem_type` of the config, which says how scores are made of logits; None if it has none.
        labels: the names of the labels, in the order of the logits.
        precision: the float type of most bytes of weights, read off the graphs.
        recipe: the row of `rpln_graphs.recipes.RECIPES` that made the precision.
        passes: in how many places each pass changed the graphs, by its name.
        target: the kind of machine that the graphs were written for.
        source: the checkpoint.
        versions: the versions of the packages that made the bundle, by name.
        validation: the summary of the comparison with PyTorch.
        generation: what a decoder's steps need; None for other tasks.
        optimization: how the forms of the graphs were chosen; None if nothing was chosen.
        sentences: how texts become vectors; None where neither the checkpoint nor the user said so.
        truncation_side: the side from which a text that is too long is cut, "right" or "left". Windows over it are laid
            from the other side.
        token_types: whether the graph gets the token types that the tokenizer gives; otherwise they are 0, as with
            transformers if the tokenizer's `model_input_names` lack "token_type_ids".
        files: all files of the bundle but the manifest.
        schema_version: the version of the manifest's schema.
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
    sentences: Sentences | None = None
    truncation_side: str = RIGHT
    token_types: bool = True
    files: tuple[BundleFile, ...] = ()
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def longest_text(self) -> int:
        """The number of tokens that a text which is too long is cut to, where the user says nothing."""
        of_sentences = self.sentences.max_length if self.sentences else None
        return self.usable_length if of_sentences is None else of_sentences

    def described(self) -> dict[str, str]:
        """Return what a person wants to know of the bundle first."""
        labels = f", {len(self.labels)} labels" if self.labels else ""
        adapter = f", with {self.source.adapter}" if self.source.adapter else ""
        return {
            "task": f"{self.task}{labels}",
            "checkpoint": f"{self.source.name}{adapter}",
            "precision": f"{self.recipe}, most weights in {self.precision}",
            "made for": self.target + (f", provider {self.optimization.provider}" if self.optimization else ""),
            "graphs": "; ".join(map(_graph_in_words, self.graphs)),
            "files": _files_in_words(self.files),
            "limits": f"texts of at most {self.longest_text} tokens",
            "proven": _proof_in_words(self.validation),
        }


def _graph_in_words(graph: Graph) -> str:
    others = "".join(f", {row.path} ({row.form}) for {' and '.join(row.providers)}" for row in graph.rewritten)
    return f"{graph.path} ({graph.form}, opset {graph.opset}){others}"


def _files_in_words(files: Collection[BundleFile]) -> str:
    largest = max(files, key=lambda file: file.size, default=None)
    total = f"{len(files)} files, {megabytes(sum(file.size for file in files))}, and {MANIFEST_NAME}"
    return f"{total}; the largest is {largest.path}, {megabytes(largest.size)}" if largest else total


def _proof_in_words(validation: Json) -> str:
    """Return what the summary of the validation says. Older bundles, or other exporters, may have another one."""
    rows = validation.get("comparisons")
    if not isinstance(rows, list) or not rows:
        return "the manifest holds no comparison with PyTorch"
    found = [row["difference"] for row in rows if isinstance(row, dict) and type(row.get("difference")) is float]
    largest = f", largest difference {max(found):.2e}" if found else ""
    cases = [row["cases"] for row in rows if isinstance(row, dict) and type(row.get("cases")) is int]
    over = f" over {max(cases)} cases" if cases else ""
    return f"{len(rows)} comparison{'s' if len(rows) > 1 else ''} with PyTorch{over}{largest}"


def read_manifest(folder: Path, *, verify: bool = True) -> Manifest:
    """Read `rpln.json` in `folder`, check it and the files that it lists, and return the manifest.

    Sizes of files are always compared; with `verify`, so is the SHA-256 of each, and without it, that of links into the
    hub's cache alone. Where another folder takes the place of this one meanwhile, that one is read. Raises
    ManifestError for a folder that is not a complete bundle of this version, or whose files were altered.
    """
    before = _identity(folder)
    try:
        manifest = _read_once(folder, verify=verify)
    except (ManifestError, OSError):
        if _identity(folder) == before:
            raise
    else:
        if _identity(folder) == before:
            return manifest
    return _read_once(folder, verify=verify)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what tells the folder from one that takes its place; None if there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _read_once(folder: Path, *, verify: bool) -> Manifest:
    path = _path_of_manifest(folder)
    manifest = _manifest_from_file(path)
    for file in manifest.files:
        _check_file(folder, file, verify=verify)
    for graph in manifest.graphs:
        _check_graph(path, graph, manifest)
    if verify:
        _check_external_data(folder, manifest)
    return manifest


def _path_of_manifest(folder: Path) -> Path:
    path = folder / MANIFEST_NAME
    if not path.is_file():
        with suppress(OSError):
            recover(folder)  # the bundle may lie beside its place, where a process died while it replaced it
    if not path.is_file() and folder.is_file():
        inside = (folder.parent / MANIFEST_NAME).is_file()
        cure = f"Name the folder that it is in: {folder.parent}" if inside else "Make one with rpln-export."
        raise ManifestError(f"{folder} is a file: expected a bundle, which is a folder. {cure}")
    if not path.is_file():
        raise ManifestError(f"{folder} holds no {MANIFEST_NAME}: expected a bundle. Make one with rpln-export.")
    _leads_into_cache(path, folder)
    return path


def _manifest_from_file(path: Path) -> Manifest:
    """Return the manifest in `path`, which keeps its schema and does not contradict itself."""
    try:
        document = read_document(path, MANIFEST)
    except DocumentError as error:
        if isinstance(error.__cause__, OSError):
            raise _unreadable(path, error.__cause__) from error
        raise ManifestError(f"{path} is not valid JSON ({error}). Export the checkpoint again.") from error
    found = document.get("schema_version") if isinstance(document, dict) else None
    if found != SCHEMA_VERSION:
        raise ManifestError(
            f"{path} has schema version {shown(found)}, this rpln-runtime reads {SCHEMA_VERSION}. "
            "Export the checkpoint again, or install the rpln-runtime that matches the bundle."
        )
    try:
        manifest: Manifest = value_from_json(Manifest, document, "the manifest")
    except TypeError as error:
        raise ManifestError(f"{path} breaks schema {SCHEMA_VERSION}: {error}. Export the checkpoint again.") from error
    if not manifest.graphs:
        raise ManifestError(f"{path} lists no graph. Export the checkpoint again.")
    if reason := contradiction(manifest):
        raise ManifestError(f"{path} contradicts itself: {reason}. Export the checkpoint again.")
    return manifest


def write_manifest(
    folder: Path, manifest: Manifest, *, without: Collection[str] = (), known: Collection[BundleFile] = ()
) -> None:
    """Write `manifest` to `rpln.json` in `folder`. Its list of files is made anew from the files that are there.

    Args:
        folder: the bundle.
        manifest: what to write.
        without: files to leave out, by their paths relative to the folder, because they are about to be removed.
        known: descriptions of files that need not be hashed again.
    """
    files = files_of_folder(folder, without=without, known=known)
    document = dataclasses.asdict(dataclasses.replace(manifest, files=files))
    written = folder / UNFINISHED_MANIFEST
    written.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    written.replace(folder / MANIFEST_NAME)  # in one step: a reader finds the old manifest or the new one


def files_of_folder(
    folder: Path, *, without: Collection[str] = (), known: Collection[BundleFile] = ()
) -> tuple[BundleFile, ...]:
    """Return the descriptions of all files of a bundle but its manifest.

    Hidden files are left out: they are being written. `without` and `known` are those of `write_manifest`.
    """
    described = {file.path: file for file in known}
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return tuple(
        described.get(name) or bundle_file_from_path(folder, path)
        for name, path in paths.items()
        if name not in {MANIFEST_NAME, *without} and not any(part.startswith(".") for part in name.split("/"))
    )


def bundle_file_from_path(folder: Path, path: Path) -> BundleFile:
    """Return the description of the file `path`, which lies in `folder`."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return BundleFile(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=digest)


def _check_file(folder: Path, file: BundleFile, *, verify: bool) -> None:
    parts = PurePosixPath(file.path)
    foreign = PureWindowsPath(file.path).anchor or "\\" in file.path or "\0" in file.path
    if parts.is_absolute() or ".." in parts.parts or foreign:
        raise ManifestError(
            f"{MANIFEST_NAME} lists {file.path!r}, which is not in the folder {folder}. Do not use this bundle."
        )
    if len(file.path.encode()) > MOST_PATH_BYTES or any(len(part.encode()) > MOST_NAME_BYTES for part in parts.parts):
        raise ManifestError(
            f"{MANIFEST_NAME} lists {file.path[:40]!r}..., a path of {len(file.path.encode()):,} bytes: expected at "
            f"most {MOST_PATH_BYTES:,}, and at most {MOST_NAME_BYTES} in each part. Do not use this bundle."
        )
    path = folder / parts
    linked = _leads_into_cache(path, folder)
    if not path.is_file():
        raise ManifestError(f"{path} is missing. Copy the whole bundle, or export the checkpoint again.")
    if path.stat().st_size != file.size:
        raise ManifestError(
            f"{path} has {path.stat().st_size:,} bytes, the manifest says {file.size:,}: a truncated or altered copy. "
            "Copy the bundle again."
        )
    try:
        differs = (verify or linked) and bundle_file_from_path(folder, path) != file
    except OSError as error:
        raise _unreadable(path, error) from error
    if differs:
        raise ManifestError(f"{path} differs from what was exported (SHA-256). Copy the bundle again.")


def _unreadable(path: Path, error: OSError) -> ManifestError:
    return ManifestError(f"{path} cannot be read ({error.strerror}). Check its permissions.")


def _leads_into_cache(path: Path, folder: Path) -> bool:
    """Return whether `path` leads from `folder`, a snapshot in the Hugging Face hub's cache, into the blobs there.

    The folder `snapshots/REVISION` of that cache has links to the files in `blobs`, beside `snapshots`. Raises
    ManifestError for a path that leads to any other place outside the folder.
    """
    real, snapshot = (Path(os.path.realpath(each)) for each in (path, folder))
    if real.is_relative_to(snapshot):
        return False
    if snapshot.parent.name == "snapshots" and real.parent == snapshot.parent.parent / "blobs":
        return True
    raise ManifestError(f"{path} is a link out of the folder {folder}. Do not use this bundle.")


def _check_external_data(folder: Path, manifest: Manifest) -> None:
    """Check that the files of the weights of every ONNX file are listed, so that they were hashed, too."""
    listed = {file.path for file in manifest.files}
    graphs = {path for graph in manifest.graphs for path in (graph.path, *(row.path for row in graph.rewritten))}
    for name in sorted(graphs | {path for path in listed if path.endswith(".onnx")}):
        try:
            files = external_files(folder / name)
        except (NotOnnxError, OSError) as error:
            raise ManifestError(f"{folder / name} is no ONNX file ({error}). Export the checkpoint again.") from error
        for location in sorted(files):
            if (weights := (PurePosixPath(name).parent / location).as_posix()) not in listed:
                raise ManifestError(
                    f"{folder / name} keeps weights in {location!r}, but {MANIFEST_NAME} lists no file {weights!r}, so "
                    "nothing tells whether they were altered. Do not use this bundle."
                )


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
    """Return the JSON `value` as the type `hint`.

    `hint` is a dataclass, a tuple, a dict, a plain type or Any, or one of these and None. Raises TypeError for a value
    of another type. Its message says where in the document the value is, which begins with `where`.
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
    # isinstance would accept a bool as an int.
    if hint is Any or type(value) in (arguments if origin is UnionType else (hint,)):
        return value
    raise TypeError(f"{where} is {shown(value)}, expected {hint.__name__ if origin is None else hint}")


def _dataclass_from_json(row: Any, value: Any, where: str) -> Any:
    names = {field.name for field in dataclasses.fields(row)}
    if not isinstance(value, dict) or not names - OPTIONAL_FIELDS <= value.keys() <= names:
        found = sorted(value) if isinstance(value, dict) else value
        raise TypeError(f"{where} holds {shown(found)}, expected {sorted(names)}")
    hints = get_type_hints(row)
    fields = {name: value_from_json(hints[name], value[name], f"{where}.{name}") for name in value}
    for name in value:
        _check_range(name, value[name], f"{where}.{name}")
    return row(**fields)


def _check_range(name: str, value: Any, where: str) -> None:
    """Raise TypeError where the field `name`, or a list or object in it, holds an integer that is out of range."""
    limits = range_of_field(name)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]:
        if type(item) is int and not limits.minimum <= item <= limits.maximum:
            raise TypeError(f"{where} is {shown(value)}, expected integers from {limits.minimum} to {limits.maximum}")
