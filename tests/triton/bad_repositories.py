"""Repositories that somebody damaged or edited wrongly, and what our check says of each: file, line and cause.

Mistakes in the configuration of a tagger that are tried on the server, too, are in `bad_configs`.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from rpln_runtime.triton.checks.reading import MOST_BYTES
from tests.triton.repositories import OTHER

Edit: TypeAlias = Callable[[Path], object]
"""A function that changes a repository, or a file or folder of it."""

Place: TypeAlias = "str | re.Pattern[str] | int | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A problem that the check reports.

    Attributes:
        file: the file, relative to the repository.
        at: what stands in the line that is named, or begins there; for a pattern with a group, where the group begins;
            the line's number; None where no line is named.
        cause: a part of the message.
    """

    file: str
    at: "Place"
    cause: str

    def place(self, repository: Path) -> str:
        """Return how the message begins."""
        line = self.at
        if isinstance(line, str | re.Pattern):
            text = (repository / self.file).read_text(encoding="utf-8")
            match = re.search(re.escape(line) if isinstance(line, str) else line, text)
            assert match, line
            line = text.count("\n", 0, match.start(match.re.groups)) + 1
        return f"{self.file}: " if line is None else f"{self.file}, line {line}: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A broken repository.

    Attributes:
        base: the repository that is edited, one of `repositories`.
        edit: what is done to it.
        found: all problems that are reported, or some of them where `more` is set.
    """

    base: str
    edit: Edit
    found: tuple[Found, ...]
    more: bool = False


def at(path: str, edit: Edit) -> Edit:
    """Return an edit of one file or folder."""
    return lambda repository: edit(repository / path)


def write(path: str, content: bytes | str) -> Edit:
    return at(path, lambda file: file.write_bytes(content if isinstance(content, bytes) else content.encode()))


def change(path: str, edit: Callable[[bytes], bytes]) -> Edit:
    """Return an edit of the content of a file, which must change it."""

    def changed(file: Path) -> None:
        before = file.read_bytes()
        after = edit(before)
        assert after != before
        file.write_bytes(after)

    return at(path, changed)


def replace(path: str, old: str, new: str, count: int = 1) -> Edit:
    return change(path, lambda content: content.replace(old.encode(), new.encode(), count))


def add(path: str, text: str) -> Edit:
    """Return an edit that puts a line in front of a file."""
    return change(path, lambda content: f"{text}\n".encode() + content)


def remove(path: str) -> Edit:
    return at(path, lambda target: shutil.rmtree(target) if target.is_dir() else target.unlink())


def move(path: str, new: str) -> Edit:
    return lambda repository: shutil.move(repository / path, repository / new)


def copy(path: str, new: str) -> Edit:
    """Return an edit that copies a file or folder of the repository, or of the other one, to another place."""

    def copied(repository: Path) -> None:
        source, target = repository / path, repository / new
        if target.is_dir():
            shutil.rmtree(target)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)

    return copied


def from_other(path: str) -> Edit:
    return copy(f"../{OTHER}/{path}", path)


def link(path: str, target: str) -> Edit:
    """Return an edit that puts a link to `target`, relative to the repository, in place of a file or folder."""

    def linked(repository: Path) -> None:
        place, leads_to = repository / path, (repository / target).resolve()
        if place.exists():
            place.rename(leads_to) if not leads_to.exists() else remove(path)(repository)
        place.symlink_to(leads_to)

    return linked


def cut(path: str) -> Edit:
    return change(path, lambda content: content[: len(content) // 2])


def zeroed(path: str) -> Edit:
    """Return an edit that sets the last 100 bytes, which hold weights, to 0."""
    return change(path, lambda content: content[:-100] + bytes(100))


def both(*edits: Edit) -> Edit:
    def edit(repository: Path) -> None:
        for one in edits:
            one(repository)

    return edit


def document(path: str, edit: Callable[[Any], object]) -> Edit:
    """Return an edit of a JSON file, which is written as it was."""

    def edited(content: bytes) -> bytes:
        value = json.loads(content)
        edit(value)
        return f"{json.dumps(value, indent=2)}\n".encode()

    return change(path, edited)


def swap_labels(path: str) -> Edit:
    def swap(manifest: Any) -> None:
        manifest["labels"][1], manifest["labels"][2] = manifest["labels"][2], manifest["labels"][1]

    return document(path, swap)


def hash_of_graph(manifest: Any) -> Any:
    (file,) = [file for file in manifest["files"] if file["path"] == "model.onnx"]
    return file


def folder(path: str) -> Edit:
    return both(remove(path), at(path, Path.mkdir))


def one(base: str, edit: Edit, file: str, line: Place, cause: str) -> Variant:
    return Variant(base=base, edit=edit, found=(Found(file=file, at=line, cause=cause),))


def several(base: str, edit: Edit, *found: tuple[str, Place, str], more: bool = False) -> Variant:
    rows = tuple(Found(file=file, at=line, cause=cause) for file, line, cause in found)
    return Variant(base=base, edit=edit, found=rows, more=more)


ENSEMBLE, TOKENIZER, MODEL, ANSWERS = (
    f"{name}/config.pbtxt" for name in ("tagger", "tagger_tokenizer", "tagger_model", "tagger_answers")
)
CPU: Final = "tagger_model/configs/cpu.pbtxt"
GRAPH: Final = "tagger_model/1/model.onnx"
WEIGHTS: Final = "tagger_model/1/model.onnx.data"
CODE: Final = "tagger_tokenizer/1/model.py"
WORDS: Final = "tagger_tokenizer/1/tokenizer.json"
WRITER: Final = "writer/config.pbtxt"
BUNDLE: Final = "writer/1/bundle"
STEPS: Final = ("tagger_tokenizer", "tagger_model", "tagger_answers")
QUEUE: Final = "dynamic_batching {"
SECOND_GROUP: Final = "instance_group { kind: KIND_CPU count: 2 }"


def edited(config: str, old: str, new: str, line: Place, cause: str, *, base: str = "tagger") -> Variant:
    """Return a row about a text that is replaced in a configuration."""
    return one(base, replace(config, old, new), config, line, cause)


def added(config: str, text: str, cause: str, *, base: str = "tagger") -> Variant:
    """Return a row about a line that is added in front of a configuration."""
    return one(base, add(config, text), config, 1, cause)


def entry(key: str, value: str) -> re.Pattern[str]:
    """Return where the entry of a map begins."""
    return re.compile(rf'(\w+ {{)\s+key: "{key}"\s+value: "{value}"')


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


ADDED: Final = "does not write it"
DIFFERS: Final = "it differs from what rpln triton writes"
OTHER_FILE: Final = "it is not the file that rpln.json describes (SHA-256)"
MISSING: Final = "it is missing"

VARIANTS: Final = {
    # Weights
    "external data missing": one("external", remove(WEIGHTS), WEIGHTS, None, MISSING),
    "external data cut short": one("external", cut(WEIGHTS), WEIGHTS, None, "a cut or altered copy"),
    "external data empty": one("external", write(WEIGHTS, b""), WEIGHTS, None, "it has 0 bytes, rpln.json says"),
    "external data zeroed": one("external", zeroed(WEIGHTS), WEIGHTS, None, OTHER_FILE),
    "external data is a folder": one("external", folder(WEIGHTS), WEIGHTS, None, "it is a folder: expected a file"),
    "external data is a link out": one(
        "external", link(WEIGHTS, "../weights"), WEIGHTS, None, "it is a link out of the repository"
    ),
    "weights zeroed": one("tagger", zeroed(GRAPH), GRAPH, None, OTHER_FILE),
    "weights of another checkpoint": one("tagger", from_other(GRAPH), GRAPH, None, "rpln.json"),
    "graph missing": one("tagger", remove(GRAPH), GRAPH, None, MISSING),
    "graph empty": one("tagger", write(GRAPH, b""), GRAPH, None, "it has 0 bytes"),
    "graph that nobody may read": one("tagger", at(GRAPH, lambda file: file.chmod(0o200)), GRAPH, None, "0200"),
    "graph is a link out": one("tagger", link(GRAPH, "../graph"), GRAPH, None, "it is a link out of the repository"),
    "graph is a broken link": one(
        "tagger", both(remove(GRAPH), at(GRAPH, lambda file: file.symlink_to("nothing"))), GRAPH, None, "cannot be read"
    ),
    "graph is a pipe": one("tagger", both(remove(GRAPH), at(GRAPH, os.mkfifo)), GRAPH, None, "neither a file nor"),
    "graph that was not written": one(
        "tagger", write("tagger_model/1/old.onnx", b""), "tagger_model/1/old.onnx", None, ADDED
    ),
    # Tokenizers
    "tokenizer of another checkpoint": one("tagger", from_other(WORDS), WORDS, None, "rpln.json"),
    "tokenizer cut short": one("tagger", cut(WORDS), WORDS, None, "a cut or altered copy"),
    "tokenizer empty": one("tagger", write(WORDS, b""), WORDS, None, "it has 0 bytes"),
    "tokenizer with one byte changed": one(
        "tagger", change(WORDS, lambda content: content[:-9] + b"x" + content[-8:]), WORDS, None, OTHER_FILE
    ),
    "tokenizer of the answers": one(
        "tagger", from_other("tagger_answers/1/tokenizer.json"), "tagger_answers/1/tokenizer.json", None, "rpln.json"
    ),
    "tokenizer is a link out": one(
        "tagger", link(WORDS, "../words"), WORDS, None, "it is a link out of the repository"
    ),
    "tokenizer files of a generator": several(
        "writer",
        both(cut(f"{BUNDLE}/tokenizer.json"), remove(f"{BUNDLE}/tokenizer_config.json")),
        (f"{BUNDLE}/tokenizer.json", None, "a cut or altered copy"),
        (f"{BUNDLE}/tokenizer_config.json", None, MISSING),
    ),
    "weights of a generator": one("writer", zeroed(f"{BUNDLE}/model.onnx"), f"{BUNDLE}/model.onnx", None, OTHER_FILE),
    "file added to a generator": one("writer", write(f"{BUNDLE}/new.json", b""), f"{BUNDLE}/new.json", None, ADDED),
    # Manifests
    "manifest missing": one(
        "tagger", remove("tagger_tokenizer/1/rpln.json"), "tagger_tokenizer/1/rpln.json", None, MISSING
    ),
    "manifest cut short": several(
        "tagger",
        cut("tagger_answers/1/rpln.json"),
        ("tagger_answers/1/rpln.json", None, "cannot be read"),
        ("tagger_answers/1/rpln.json", re.compile(r"([^\n]*)$"), DIFFERS),
    ),
    "manifest empty": several(
        "tagger",
        write("tagger_model/1/rpln.json", b""),
        ("tagger_model/1/rpln.json", None, "cannot be read"),
        ("tagger_model/1/rpln.json", 1, DIFFERS),
    ),
    "labels swapped in a manifest": one(
        "tagger",
        swap_labels("tagger_answers/1/rpln.json"),
        "tagger_answers/1/rpln.json",
        re.compile(r'"labels"(?s:.*?)\n.*?\n(.*)'),
        DIFFERS,
    ),
    "labels swapped in all manifests": several(
        "tagger",
        both(*(swap_labels(f"{step}/1/rpln.json") for step in STEPS)),
        *((f"{step}/1/rpln.json", None, "SHA-256 in rpln-triton.json") for step in STEPS),
        ("tagger_model/labels.txt", 2, DIFFERS),
    ),
    "weights zeroed, and the manifest adapted": several(
        "tagger",
        both(
            zeroed(GRAPH),
            document("tagger_model/1/rpln.json", lambda manifest: hash_of_graph(manifest).update(sha256="0" * 64)),
        ),
        (GRAPH, None, OTHER_FILE),
        ("tagger_model/1/rpln.json", re.compile(r'"model.onnx",\s+"size": \d+,\s+("sha)'), DIFFERS),
        more=True,
    ),
    "manifest of an older schema": several(
        "tagger",
        document("tagger_model/1/rpln.json", lambda manifest: manifest.update(schema_version=2)),
        ("tagger_model/1/rpln.json", None, "schema version 2, expected 3"),
        ("tagger_model/1/rpln.json", '"schema_version"', DIFFERS),
    ),
    "manifest with a file outside": several(
        "tagger",
        both(
            *(
                document(f"{step}/1/rpln.json", lambda manifest: manifest["files"][0].update(path="../../x"))
                for step in STEPS
            )
        ),
        *((f"{step}/1/rpln.json", None, "SHA-256 in rpln-triton.json") for step in STEPS),
        more=True,
    ),
    "manifest of another task": several(
        "tagger",
        copy("../answerer/answerer_model/1/rpln.json", "tagger_model/1/rpln.json"),
        ("tagger_model/1/rpln.json", '"task"', DIFFERS),
    ),
    "settings of a generator changed": one(
        "writer",
        document(f"{BUNDLE}/rpln.json", lambda manifest: manifest.update(usable_length=32)),
        f"{BUNDLE}/rpln.json",
        None,
        "SHA-256 in rpln-triton.json",
    ),
    # Labels and warm-up requests
    "labels swapped": one(
        "tagger",
        change("tagger_model/labels.txt", lambda content: b"".join(reversed(content.splitlines(keepends=True)))),
        "tagger_model/labels.txt",
        1,
        DIFFERS,
    ),
    "labels empty": one("tagger", write("tagger_model/labels.txt", b""), "tagger_model/labels.txt", 1, DIFFERS),
    "a label too many": one(
        "tagger",
        change("tagger_model/labels.txt", lambda content: content + b"X\n"),
        "tagger_model/labels.txt",
        7,
        "no more",
    ),
    "labels with the line ends of Windows": one(
        "tagger",
        change("tagger_model/labels.txt", lambda content: content.replace(b"\n", b"\r\n")),
        "tagger_model/labels.txt",
        1,
        DIFFERS,
    ),
    "warm-up request of other content": one(
        "tagger", zeroed("tagger_model/warmup/ones_16"), "tagger_model/warmup/ones_16", None, "the 128 bytes"
    ),
    "warm-up file that was not written": one(
        "tagger", write("tagger_model/warmup/ones_17", b""), "tagger_model/warmup/ones_17", None, ADDED
    ),
    # Code
    "syntax error": one("tagger", replace(CODE, "make_step =", "make_step ="[:-1] + ":="), CODE, "make_step", DIFFERS),
    "code of another step": one("tagger", copy("tagger_answers/1/model.py", CODE), CODE, "answers", DIFFERS),
    "code of a step for a generator": one(
        "writer", write("writer/1/model.py", "import os\n"), "writer/1/model.py", 1, DIFFERS
    ),
    "code empty": one("tagger", write(CODE, b""), CODE, 1, DIFFERS),
    "code of one's own": one(
        "tagger", change(CODE, lambda text: text + b"    retries = 3\n"), CODE, "retries", "no more"
    ),
    "code cut short": one("tagger", cut(CODE), CODE, 4, DIFFERS),
    "code for the graph": one("tagger", copy(CODE, "tagger_model/1/model.py"), "tagger_model/1/model.py", None, ADDED),
    # Folders and versions
    "step missing": one("tagger", remove("tagger_answers"), "tagger_answers", None, "the folder is missing"),
    "model that was not written": one(
        "tagger", copy("tagger_answers", "spare"), "spare", None, "rpln triton did not write this model"
    ),
    "step of another checkpoint": several(
        "tagger",
        from_other("tagger_tokenizer"),
        ("tagger_tokenizer/1/rpln.json", re.compile(r'"name": "logits"(?s:.*?)\n\s+(4)\n'), DIFFERS),
        more=True,
    ),
    "model folder is a link out": one(
        "tagger", link("tagger_answers", "../answers"), "tagger_answers", None, "it is a link out of the repository"
    ),
    "version with a zero": several(
        "tagger",
        move("tagger_tokenizer/1", "tagger_tokenizer/01"),
        ("tagger_tokenizer", None, "there is no version"),
        ("tagger_tokenizer/01", None, ADDED),
        more=True,
    ),
    "version of another name": one("tagger", copy("tagger_model/1", "tagger_model/v2"), "tagger_model/v2", None, ADDED),
    "version is a file": several(
        "tagger",
        both(remove("tagger_answers/1"), write("tagger_answers/1", b"")),
        ("tagger_answers", None, "there is no version"),
        ("tagger_answers/1", None, ADDED),
        more=True,
    ),
    "empty version": several(
        "tagger",
        at("tagger_model/2", Path.mkdir),
        ("tagger_model/2/rpln.json", None, MISSING),
        ("tagger_model/2/model.onnx", None, MISSING),
        (MODEL, "version_policy", "the newest version that it serves is 2, that of tagger_tokenizer is 1"),
        more=True,
    ),
    "newer version of one step alone": several(
        "tagger",
        copy(f"../{OTHER}/tagger_model/1", "tagger_model/2"),
        (MODEL, "version_policy", "the newest version that it serves is 2, that of tagger_tokenizer is 1"),
        (CPU, "version_policy", "the newest version that it serves is 2"),
        more=True,
    ),
    "older version of one step": several(
        "versions",
        replace(TOKENIZER, "latest {\n    num_versions: 1\n  }", "specific { versions: [ 1 ] }"),
        *((config, "version_policy", "is 2, that of tagger_tokenizer is 1") for config in (MODEL, CPU, ANSWERS)),
    ),
    "version that is not there": edited(
        TOKENIZER, "latest {\n    num_versions: 1\n  }", "specific { versions: [ 1, 9 ] }", "specific", "there: 1"
    ),
    "no policy for versions": edited(
        ENSEMBLE, "latest {\n    num_versions: 1\n  }", "", "version_policy", "expected latest, all or specific"
    ),
    # Configurations as files
    "configuration missing": one("tagger", remove(ANSWERS), ANSWERS, None, MISSING),
    "configuration empty": several(
        "tagger", write(ANSWERS, b""), (ANSWERS, None, "name is missing: expected"), more=True
    ),
    "configuration in Latin-1": one("tagger", write(ANSWERS, b'name: "\xe9"'), ANSWERS, None, "cannot be read"),
    "configuration of 4 MiB": one("tagger", write(ANSWERS, b" " * (MOST_BYTES + 1)), ANSWERS, None, "more than"),
    "configuration is a folder": one("tagger", folder(ANSWERS), ANSWERS, None, "is a folder"),
    "configuration is a link out": one("tagger", link(ANSWERS, "../answers"), ANSWERS, None, "a link out of"),
    "no configuration for the CPU": one("tagger", remove(CPU), CPU, None, MISSING),
    "configuration of another name": one(
        "tagger", copy(MODEL, "tagger_model/configs/big.pbtxt"), "tagger_model/configs/big.pbtxt", None, ADDED
    ),
    "configuration for the CPU of bf16": several(
        "bf16",
        both(at("tagger_model/configs", Path.mkdir), copy(MODEL, CPU)),
        ("tagger_model/configs", None, ADDED),
    ),
    "configuration of another step": several(
        "tagger",
        copy(ANSWERS, TOKENIZER),
        (TOKENIZER, 1, 'name is "tagger_answers": expected "tagger_tokenizer"'),
        (TOKENIZER, None, 'input["text"] is missing'),
        more=True,
    ),
    # The marker
    "marker missing": one(
        "tagger", remove("rpln-triton.json"), "rpln-triton.json", None, "it is missing, so this is no"
    ),
    "marker cut short": one("tagger", cut("rpln-triton.json"), "rpln-triton.json", None, "line 10 column"),
    "marker of an older rpln": one(
        "tagger",
        document("rpln-triton.json", lambda marker: marker.pop("manifest")),
        "rpln-triton.json",
        None,
        "an older rpln-runtime wrote it",
    ),
    "marker of another rpln": one(
        "tagger",
        replace("rpln-triton.json", "0.1.0", "0.0.9"),
        "rpln-triton.json",
        None,
        "rpln-runtime 0.0.9 wrote it, 0.1.0 is installed",
    ),
    "marker without a step": several(
        "tagger",
        document("rpln-triton.json", lambda marker: marker["models"].pop("tagger_answers")),
        ("rpln-triton.json", None, "models are ensemble, onnx, tokenizer: expected"),
        ("tagger_answers", None, "rpln triton did not write this model"),
    ),
    "marker with roles swapped": several(
        "tagger",
        document(
            "rpln-triton.json",
            lambda marker: marker["models"].update(tagger_tokenizer="answers", tagger_answers="tokenizer"),
        ),
        ("rpln-triton.json", None, "tagger_tokenizer is its answers: expected tagger_answers"),
        more=True,
    ),
    "marker of another checkpoint": one(
        "tagger", replace("rpln-triton.json", "0000", "1111"), "rpln-triton.json", None, "source is not the checkpoint"
    ),
    "marker with a path": one(
        "tagger",
        document("rpln-triton.json", lambda marker: marker["models"].update({"../x": "onnx"})),
        "rpln-triton.json",
        None,
        "'../x'",
    ),
    # Wiring
    "start and end swapped": several(
        "tagger",
        both(
            replace(ENSEMBLE, 'value: "start"', 'value: "s"'),
            replace(ENSEMBLE, 'value: "end"', 'value: "start"'),
            replace(ENSEMBLE, 'value: "s"', 'value: "end"'),
        ),
        (ENSEMBLE, entry("start", "end"), 'step["tagger_answers"].output_map["start"] is "end": expected "start"'),
        (ENSEMBLE, entry("end", "start"), 'step["tagger_answers"].output_map["end"] is "start": expected "end"'),
    ),
    "ids and mask swapped": several(
        "tagger",
        replace(ENSEMBLE, 'input_map {\n      key: "input_ids"', 'input_map {\n      key: "attention_mask"'),
        (
            ENSEMBLE,
            re.compile(r'"tagger_model"(?s:.*?)input_map(?s:.*?)(input_map)'),
            'step["tagger_model"].input_map["attention_mask"] is there 2 times',
        ),
        more=True,
    ),
    "logits of start and end swapped": several(
        "answerer",
        both(
            replace("answerer/config.pbtxt", 'value: "start_logits"', 'value: "s"'),
            replace("answerer/config.pbtxt", 'value: "end_logits"', 'value: "start_logits"'),
            replace("answerer/config.pbtxt", 'value: "s"', 'value: "end_logits"'),
        ),
        *(
            ("answerer/config.pbtxt", entry(one, other), f'step["answerer_model"].output_map["{one}"] is "{other}"')
            for one, other in [("start_logits", "end_logits"), ("end_logits", "start_logits")]
        ),
    ),
    "step left out": one(
        "tagger",
        change(
            ENSEMBLE,
            lambda text: re.sub(rb'  step {\n    model_name: "tagger_answers".*?\n  }\n', b"", text, flags=re.DOTALL),
        ),
        ENSEMBLE,
        "ensemble_scheduling",
        'step["tagger_answers"] is missing',
    ),
    "step of another repository": edited(
        ENSEMBLE, "model_version: -1", 'model_version: -1 model_namespace: "b"', "model_namespace", ADDED
    ),
    "requests in flight": edited(
        ENSEMBLE, "ensemble_scheduling {", "ensemble_scheduling { max_inflight_requests: 1", "max_inflight", ADDED
    ),
    # Tensors
    "options that must be given": edited(
        ENSEMBLE, "optional: true", "optional: false", "optional: false", "optional is false: expected true"
    ),
    "ragged batches": edited(
        CPU, "dims: [ -1 ]", "dims: [ -1 ] allow_ragged_batch: true", "ragged", "allow_ragged_batch is true, but"
    ),
    "another shape": edited(CPU, "dims: [ -1 ]", "dims: [ -1 ] reshape { shape: [ 1 ] }", "reshape", ADDED),
    "images": edited(CPU, "dims: [ -1 ]", "dims: [ -1 ] format: FORMAT_NCHW", "NCHW", "format is FORMAT_NCHW, but"),
    "shape tensor": edited(CPU, "dims: [ -1 ]", "dims: [ -1 ] is_shape_tensor: true", "is_shape", ADDED),
    "other labels": edited(CPU, '"labels.txt"', '"names.txt"', "names.txt", 'expected "labels.txt"'),
    "no labels any more": edited(CPU, 'label_filename: "labels.txt"', "", "output {", "label_filename is missing"),
    "computed inputs": added(
        CPU, 'batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" }', "batch_input[0] is there"
    ),
    # Queues and priorities
    "queue without a limit": edited(
        TOKENIZER, "max_queue_size: 1024", "max_queue_size: 0", "max_queue_size", "max_queue_size is 0: expected 1 to"
    ),
    "queue that is endless": edited(
        TOKENIZER, "max_queue_size: 1024", "max_queue_size: 4000000000", "max_queue_size", "expected 1 to 65,536"
    ),
    "delay of a minute": edited(
        CPU, "microseconds: 1000", "microseconds: 60000000", "60000000", "is 60000000: expected 0 to 100,000"
    ),
    "timeout of a day": edited(
        TOKENIZER, "microseconds: 30000000", "microseconds: 86400000000", "8640", "expected 1,000 to 600,000,000"
    ),
    "default priority out of range": edited(
        CPU, QUEUE, f"{QUEUE} priority_levels: 2 default_priority_level: 5", QUEUE, "expected 1 to priority_levels, 2"
    ),
    "no default priority": edited(
        CPU, QUEUE, f"{QUEUE} priority_levels: 2", QUEUE, "default_priority_level is missing"
    ),
    "default priority of no levels": edited(
        CPU, QUEUE, f"{QUEUE} default_priority_level: 1", QUEUE, "default_priority_level is 1: expected 0 to"
    ),
    "a billion priorities": edited(
        CPU,
        QUEUE,
        f"{QUEUE} priority_levels: 1000000000 default_priority_level: 1",
        QUEUE,
        "priority_levels is 1000000000: expected 0 to 100",
    ),
    "policy of no priority": edited(
        CPU,
        QUEUE,
        f"{QUEUE} priority_levels: 2 default_priority_level: 1 priority_queue_policy {{ key: 3 value "
        "{ default_timeout_microseconds: 1000 max_queue_size: 1 } }",
        QUEUE,
        "priority_queue_policy[3] is there: expected a level of 1 to priority_levels, 2",
    ),
    "policy of a priority without a limit": edited(
        CPU,
        QUEUE,
        f"{QUEUE} priority_levels: 2 default_priority_level: 1 priority_queue_policy {{ key: 2 value "
        "{ default_timeout_microseconds: 1000 } }",
        QUEUE,
        "priority_queue_policy[2].max_queue_size is missing: expected 1 to",
    ),
    "falling preferred sizes": edited(
        CPU, QUEUE, f"{QUEUE} preferred_batch_size: [ 8, 4 ]", QUEUE, "is [8, 4]: expected rising numbers"
    ),
    "answers in order": edited(CPU, QUEUE, f"{QUEUE} preserve_ordering: true", QUEUE, "preserve_ordering is true, but"),
    "sequences": several(
        "tagger",
        change(
            CPU,
            lambda text: re.sub(
                rb"dynamic_batching {.*?\n}\n", b"sequence_batching { direct { } }\n", text, flags=re.DOTALL
            ),
        ),
        (CPU, "sequence_batching", "sequence_batching is there, but rpln triton does not write it"),
        (CPU, None, "dynamic_batching is missing"),
    ),
    "sequences beside batches": one(
        "tagger", add(CPU, "sequence_batching { }"), CPU, QUEUE, "specified along with field"
    ),
    "no batcher": one(
        "tagger",
        change(CPU, lambda text: re.sub(rb"dynamic_batching {.*?\n}\n", b"", text, flags=re.DOTALL)),
        CPU,
        None,
        "dynamic_batching is missing",
    ),
    # Instances
    "group of another kind": several(
        "tagger",
        add(CPU, "instance_group { kind: KIND_GPU count: 1 }"),
        (CPU, 1, "instance_group[0].kind is KIND_GPU: expected KIND_CPU"),
    ),
    "group of no kind": several(
        "tagger", add(TOKENIZER, "instance_group { count: 1 }"), (TOKENIZER, 1, "instance_group[0].kind is missing")
    ),
    "hundred instances": edited(CPU, "  count: ", "  count: 9", "count: 9", "expected 1 to 64"),
    "no instances": one(
        "tagger",
        change(CPU, lambda text: re.sub(rb"instance_group {.*?\n}\n", b"", text, flags=re.DOTALL)),
        CPU,
        None,
        "instance_group[0] is missing: expected at least one group",
    ),
    "GPU named twice": edited(
        MODEL, "KIND_GPU", "KIND_GPU gpus: [ 1, 1 ]", "KIND_GPU", "is [1, 1]: expected different"
    ),
    "negative GPU": edited(MODEL, "KIND_GPU", "KIND_GPU gpus: [ -1 ]", "KIND_GPU", "is [-1]: expected different"),
    "rate limiter": edited(
        CPU,
        "kind: KIND_CPU",
        "kind: KIND_CPU rate_limiter { priority: 9 }",
        "rate_limiter",
        "rate_limiter is there, but",
    ),
    "passive instances": edited(CPU, "kind: KIND_CPU", "kind: KIND_CPU passive: true", "passive", ADDED),
    "policy of the host": edited(CPU, "kind: KIND_CPU", 'kind: KIND_CPU host_policy: "a"', "host_policy", ADDED),
    "profile of a graph": edited(CPU, "kind: KIND_CPU", 'kind: KIND_CPU profile: [ "0" ]', "profile", "engine: none"),
    # Settings of backends
    "cuda without its strict mode": edited(
        MODEL, 'value: "1"', 'value: "0"', "parameters {", '["enable_skip_layer_norm_strict_mode"] is "0": expected "1"'
    ),
    "no settings of cuda": one(
        "tagger",
        change(MODEL, lambda text: re.sub(rb"optimization {.*?\n}\n", b"", text, flags=re.DOTALL)),
        MODEL,
        None,
        "optimization is missing",
    ),
    "integers for TensorRT": edited(
        MODEL,
        "execution_accelerators {",
        'execution_accelerators { gpu_execution_accelerator { name: "tensorrt" '
        'parameters { key: "precision_mode" value: "INT8" } }',
        "execution_accelerators",
        'parameters["precision_mode"] is "INT8", but rpln triton does not write it',
    ),
    "OpenVINO on a GPU": edited(
        MODEL,
        "execution_accelerators {",
        'execution_accelerators { cpu_execution_accelerator { name: "openvino" }',
        "execution_accelerators",
        "expected none, it has no effect without KIND_CPU",
    ),
    "no such level of optimization": added(
        CPU, "optimization { graph { level: 5 } }", "level is 5: expected -1 or 1 or 2"
    ),
    "graphs of CUDA without TensorRT": added(
        CPU, "optimization { cuda { graphs: true } }", "optimization.cuda is there"
    ),
    "5000 threads": added(CPU, parameter("intra_op_thread_count", "5000"), 'is "5000": expected a number, 0 to 1,024'),
    "threads below zero": added(CPU, parameter("inter_op_thread_count", "-1"), "expected a number, 0 to 1,024"),
    "mode of execution": added(CPU, parameter("execution_mode", "parallel"), 'is "parallel": expected 0 or 1'),
    "no environment": added(TOKENIZER, parameter("EXECUTION_ENV_PATH", ""), "expected the path of an environment"),
    "tensors perhaps": added(TOKENIZER, parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "maybe"), "expected yes or no"),
    "backend by its library": added(CPU, 'runtime: "libtriton_evil.so"', 'runtime is "libtriton_evil.so", but'),
    "file for a GPU": added(CPU, 'cc_model_filenames { key: "8.9" value: "a.onnx" }', "cc_model_filenames"),
    "operators from a library": added(
        CPU, 'model_operations { op_library_filename: "a.so" }', "model_operations is there"
    ),
    "agents": added(CPU, 'model_repository_agents { agents { name: "a" } }', "model_repository_agents is there"),
    "cache of a step": added(TOKENIZER, "response_cache { enable: true }", "response_cache is there, but"),
    "steps that stream": added(ANSWERS, "model_transaction_policy { decoupled: true }", "model_transaction_policy is"),
    # Warm-up requests
    "warm-up request of another name": edited(
        CPU, '"16 tokens"', '"first"', re.compile(r"(model_warmup)"), 'is there: expected names of the form "16 tokens"'
    ),
    "warm-up request of another length": edited(
        CPU, '"16 tokens"', '"65 tokens"', "model_warmup", 'expected names of the form "16 tokens", 1 to 64'
    ),
    "warm-up request of random ids": several(
        "tagger",
        replace(CPU, "zero_data: true", "random_data: true"),
        (CPU, "random_data", "random_data is true, but rpln triton does not write it"),
        (CPU, re.compile(r"(inputs) {(?s:.*)random_data"), "zero_data is missing: expected true"),
    ),
    "warm-up request that never ends": edited(
        CPU, "batch_size: 1", "batch_size: 1 count: 1000000", "count: 1000000", "count is 1000000: expected 0 to 1,000"
    ),
    # Choices
    "other options in the answers": edited(
        ANSWERS, '"{}"', '"{\\"stride\\": 4}"', "stride", "expected {}, as in the other steps"
    ),
    "no buckets": edited(TOKENIZER, '"16,32,64"', '""', 'string_value: ""', "expected lengths in tokens"),
    "buckets in words": edited(TOKENIZER, '"16,32,64"', '"16, 32, 64"', "16, 32", "expected lengths in tokens"),
    "batches of another size in a step": edited(
        ANSWERS, "max_batch_size: 32", "max_batch_size: 16", "max_batch_size", "max_batch_size is 16: expected 32"
    ),
    # Generators
    "generator that answers once": several(
        "writer",
        both(*(replace(file, "decoupled: true", "decoupled: false") for file in (WRITER, "writer/configs/cpu.pbtxt"))),
        (WRITER, "decoupled", "decoupled is false: expected true"),
        ("writer/configs/cpu.pbtxt", "decoupled", "decoupled is false: expected true"),
    ),
    "generator on another device": edited(
        WRITER, 'string_value: "cuda"', 'string_value: "cpu"', '"cpu"', 'is "cpu": expected "cuda"', base="writer"
    ),
    "batch size of a generator": edited(
        WRITER, 'string_value: "8"', 'string_value: "9"', '"9"', 'parameters["batch_size"]', base="writer"
    ),
    "option that no generation has": several(
        "writer",
        both(*(replace(file, '"{}"', '"{\\"temperature\\": -1}"') for file in (WRITER, "writer/configs/cpu.pbtxt"))),
        (WRITER, re.compile(r"(parameters {)"), "temperature is -1"),
    ),
    "cache of a generator": added(
        WRITER, "response_cache { enable: true }", "response_cache is there, but", base="writer"
    ),
    "generator in sequences": one(
        "writer",
        replace(WRITER, QUEUE, "sequence_batching { }\ndynamic_batching {"),
        WRITER,
        "dynamic_batching",
        "is specified along with field",
    ),
    # Engines
    "plan of another engine": one(
        "engine", write("tagger_model/1/model.plan", b"no klan"), "tagger_model/1/model.plan", None, OTHER_FILE
    ),
    "plan missing": one("engine", remove("tagger_model/1/model.plan"), "tagger_model/1/model.plan", None, MISSING),
    "profiles widened": one(
        "engine",
        document("tagger_model/1/engine.json", lambda one: one["profiles"][0]["batch"].update(maximum=256)),
        "tagger_model/1/engine.json",
        None,
        "rpln.json",
    ),
    "manifest of an engine cut short": several(
        "engine",
        cut("tagger_model/1/engine.json"),
        ("tagger_model/1/engine.json", None, "cannot be read"),
        more=True,
    ),
    "engine without its profile": edited(
        MODEL, '"0", "1"', "", "profile", "profile is []: expected profiles of the engine: 0, 1", base="engine"
    ),
    # Many at a time
    "everything at once": several(
        "tagger",
        both(
            zeroed(GRAPH),
            cut(WORDS),
            remove(CODE),
            replace(CPU, "  count: ", "  count: 9"),
            replace(ENSEMBLE, "TYPE_FP32", "TYPE_FP64"),
            replace(ANSWERS, "name:", "nome:"),
            swap_labels("tagger_answers/1/rpln.json"),
            write("tagger_model/labels.txt", b""),
        ),
        (GRAPH, None, OTHER_FILE),
        (WORDS, None, "a cut or altered copy"),
        (CODE, None, MISSING),
        (CPU, "count: 9", "expected 1 to 64"),
        (ENSEMBLE, "TYPE_FP64", "expected TYPE_FP32"),
        (ANSWERS, 1, 'no field named "nome"'),
        ("tagger_answers/1/rpln.json", re.compile(r'"labels"(?s:.*?)\n.*?\n(.*)'), DIFFERS),
        ("tagger_model/labels.txt", 1, DIFFERS),
    ),
}
