"""The bundles that a server has, by the names that clients ask for."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rpln_runtime.errors import InputError
from rpln_runtime.generation.options import GenerationOptions
from rpln_runtime.manifest import Manifest, read_manifest
from rpln_runtime.pipelines import task_from_name
from rpln_runtime.postprocess import POSTPROCESS
from rpln_runtime.postprocess.base import ItemField, Postprocess
from rpln_runtime.serve.request_options import check_amounts, typed_options
from rpln_runtime.tasks import Task
from rpln_runtime.tokenization import Tokenizer
from rpln_runtime.triton.interfaces import INTERFACES
from rpln_runtime.triton.names import Names
from rpln_runtime.triton.response import Column

_PROMPT: Final = ItemField(name="text")
_GENERATED: Final = (
    Column(name="text", data_type="TYPE_STRING", rows=lambda answers: [one["generated_text"] for one in answers]),
    Column(name="sequence", data_type="TYPE_INT64", rows=lambda answers: list(range(len(answers)))),
)
"""What clients of the Open Inference Protocol get of a bundle that generates text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedBundle:
    """A bundle and its name. It has what is needed to read requests, and not the graph.

    Attributes:
        postprocess: the post-processing with its default options; None if the task generates text.
    """

    name: str
    folder: Path
    manifest: Manifest
    task: Task
    postprocess: Postprocess[Any] | None

    @property
    def fields(self) -> tuple[ItemField, ...]:
        """What an item consists of."""
        return (_PROMPT,) if self.postprocess is None else type(self.postprocess).fields

    @property
    def columns(self) -> tuple[Column, ...]:
        """What clients of the Open Inference Protocol get."""
        return _GENERATED if self.task.postprocess is None else INTERFACES[self.task.postprocess].columns

    @property
    def example(self) -> Any:
        """An item to ask with."""
        if self.task.postprocess is None:
            return "The old man"
        mask = self.manifest.mask_token_id
        example = dict(INTERFACES[self.task.postprocess].example)
        if self.postprocess is not None and mask is not None and "text" in example:
            example["text"] = str(example["text"]).replace("<mask>", self.postprocess.tokenizer.token(mask))
        return example["text"] if list(example) == ["text"] else example

    def with_options(self, options: Mapping[str, Any]) -> Postprocess[Any]:
        """Return the post-processing with a request's own options. Raises InputError for options it does not take."""
        assert self.postprocess is not None
        check_amounts(type(self.postprocess), options)
        return with_options(self.postprocess, options, self.task.name)

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise InputError for options of a request that have other names or types, or ask for too much."""
        row = GenerationOptions if self.postprocess is None else type(self.postprocess)
        check_amounts(row, options)
        typed_options(row, options, self.task.name)


def with_options(postprocess: Postprocess[Any], options: Mapping[str, Any], task: str) -> Postprocess[Any]:
    """Return `postprocess` with other options. Raises InputError for options that it does not take."""
    if not options:
        return postprocess
    return dataclasses.replace(postprocess, **typed_options(type(postprocess), options, task))


def open_bundle(name: str, folder: Path) -> ServedBundle:
    """Return the bundle in `folder`. Raises ManifestError if it cannot be served."""
    manifest = read_manifest(folder)
    task = task_from_name(manifest.task)
    tokenizer = Tokenizer.from_bundle(folder, manifest)
    postprocess = POSTPROCESS[task.postprocess](manifest=manifest, tokenizer=tokenizer) if task.postprocess else None
    return ServedBundle(name=name, folder=folder.absolute(), manifest=manifest, task=task, postprocess=postprocess)


def bundles_from_arguments(arguments: Sequence[str]) -> list[ServedBundle]:
    """Return the bundles that `arguments` name, each as FOLDER or as NAME=FOLDER.

    Without a name, a bundle is called like its folder. Raises InputError for two bundles of one name, and for a name
    that cannot be part of a URL.
    """
    if not arguments:
        raise InputError("no bundle was given: name at least one, as FOLDER or NAME=FOLDER.")
    bundles: dict[str, ServedBundle] = {}
    for argument in arguments:
        name, folder = _name_and_folder(argument)
        bundle = open_bundle(name, folder)
        if bundle.name in bundles:
            raise InputError(f"two bundles are called {bundle.name!r}: give them other names, as in NAME={folder}.")
        bundles[bundle.name] = bundle
    return list(bundles.values())


def _name_and_folder(argument: str) -> tuple[str, Path]:
    """Return what FOLDER or NAME=FOLDER says. Raises InputError where a part is empty, or the name cannot be one."""
    name, equals, folder = argument.partition("=")
    if not equals or Path(argument).exists():
        name, folder = Path(argument).resolve().name, argument
    if not (name and folder):
        raise InputError(f"{argument!r} has no {'folder' if name else 'name'}: expected FOLDER or NAME=FOLDER.")
    try:
        return Names(name).served, Path(folder)
    except InputError as error:
        raise InputError(
            f"the name {name!r} cannot be part of a URL: expected letters, digits, _, . and -. Give the bundle another "
            f"one, as in NAME={folder}."
        ) from error
