"""The parts of a bundle that the steps around a model need: manifest, tokenizer, and options of the task."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpln_runtime._version import __version__
from rpln_runtime.documents import read_document
from rpln_runtime.errors import ManifestError
from rpln_runtime.facts import contradiction
from rpln_runtime.installing import version_command
from rpln_runtime.limits import MANIFEST
from rpln_runtime.manifest import MANIFEST_NAME, Manifest, value_from_json
from rpln_runtime.postprocess import POSTPROCESS
from rpln_runtime.postprocess.base import Postprocess, check_options
from rpln_runtime.request_limits import MOST_IN_ANSWERS, check_request_options
from rpln_runtime.tasks import TASKS
from rpln_runtime.tokenization import Tokenizer
from rpln_runtime.triton.digits import number_from_text


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBundle:
    """A bundle without its graphs, read from the version folder of a step: rpln.json and tokenizer.json."""

    manifest: Manifest
    postprocess: Postprocess[Any]

    @classmethod
    def read(cls, folder: Path, parameters: Mapping[str, str]) -> "StepBundle":
        """Read `folder`. `parameters` are those of the configuration, among them the options of the task.

        Raises ManifestError for a repository that another version wrote, and InputError for an unknown option.
        """
        check_version(parameters)
        manifest = manifest_of_step(folder)
        row = POSTPROCESS[str(TASKS[manifest.task].postprocess)]
        options = json.loads(parameters["options"])
        check_options(row, options, manifest.task)
        tokenizer = Tokenizer.from_bundle(folder, manifest)
        return cls(manifest=manifest, postprocess=row(manifest=manifest, tokenizer=tokenizer, **options))

    def with_options(self, options: Mapping[str, Any]) -> Postprocess[Any]:
        """Return the post-processing with an item's own options.

        Raises InputError for an unknown option, one of another type, and one that asks for too much.
        """
        check_options(type(self.postprocess), options, self.manifest.task)
        check_request_options(options, MOST_IN_ANSWERS)
        return dataclasses.replace(self.postprocess, **options) if options else self.postprocess


def manifest_of_step(folder: Path) -> Manifest:
    """Read the manifest in a version folder, without checking the files that it lists. Raises ManifestError."""
    try:
        document = read_document(folder / MANIFEST_NAME, MANIFEST)
        manifest: Manifest = value_from_json(Manifest, document, "the manifest")
    except (OSError, ValueError, TypeError) as error:
        raise ManifestError(f"{folder / MANIFEST_NAME} cannot be read ({error}). Write the repository anew.") from error
    if reason := contradiction(manifest):
        raise ManifestError(f"{folder / MANIFEST_NAME} contradicts itself: {reason}. Write the repository anew.")
    return manifest


def number_parameter(parameters: Mapping[str, str], name: str) -> int:
    """Return the parameter `name` of a configuration. Raises ManifestError for one that is not a number."""
    number = number_from_text(parameters[name])
    if number is None:
        raise ManifestError(f"the parameter {name} is {parameters[name]!r}, expected a number of the digits 0 to 9.")
    return number


def check_version(parameters: Mapping[str, str]) -> None:
    """Raise ManifestError where the repository was written by another version than the one that runs it."""
    if (written := parameters["rpln_runtime"]) != __version__:
        raise ManifestError(
            f"the repository was written by rpln-runtime {written}, and {__version__} is installed in the server. "
            f"Write it anew, or run in the server: {version_command(written)}"
        )
