"""How a bundle is run, as code that its reader can copy: in a shell, in Python, in C++ and with Triton."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from rpln_runtime.tasks import TASKS

TEXT: Final = "The old man walked to the boat."
FIELDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "question-answering": {"question": "Who walked to the boat?", "context": TEXT},
    "multiple-choice": {"prompt": "It rained.", "choices": ["I got wet.", "I slept."]},
}
"""The item of each task that takes several fields; the others take a text."""
TEXTS: Final[Mapping[str, str]] = {
    "fill-mask": "The <mask> walked to the boat.",
    "text-generation": "The old man",
    "text2text-generation": "the old man walked",
}
"""The text of each task that TEXT does not suit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    """A way to run the bundle: its title, a sentence on what it needs, and the code."""

    title: str
    needs: str
    code: str


def snippets(task: str, folder: str) -> list[Snippet]:
    """Return the ways to run a bundle of `task`, which is in `folder`."""
    fields = _fields(task)
    return [
        Snippet(title="Shell", needs="Needs rpln-export, or rpln-runtime alone.", code=_shell(folder, task, fields)),
        Snippet(
            title="Python",
            needs="Needs rpln-runtime: numpy, tokenizers and ONNX Runtime, no torch.",
            code=_python(folder, task),
        ),
        Snippet(
            title="C++", needs="Needs the headers of runtime/cpp and ONNX Runtime.", code=cpp_program(task, folder)
        ),
        Snippet(title="Triton", needs="Needs a Triton server with rpln-runtime.", code=_triton(folder, task, fields)),
    ]


def python_arguments(task: str) -> str:
    """Return what a pipeline of `task` is called with in Python."""
    fields = _fields(task)
    return ", ".join(f"{name}={value!r}" for name, value in fields.items()) if task in FIELDS else repr(fields["text"])


def cpp_program(task: str, folder: str) -> str:
    """Return a program in C++ that runs a bundle of `task`, which is in `folder`."""
    fields = _fields(task)
    # JSON writes a text as C++ does.
    document = json.dumps(fields if task in FIELDS else fields["text"], ensure_ascii=False)
    argument = f'rpln::Json::parse(R"json({document})json")' if task in FIELDS else document
    return (
        '#include <iostream>\n\n#include "rpln.hpp"\n\nint main() {\n'
        f"  const rpln::Pipeline answer({json.dumps(folder, ensure_ascii=False)});\n"
        f"  std::cout << answer({argument}) << '\\n';\n}}"
    )


def _fields(task: str) -> Mapping[str, Any]:
    return FIELDS.get(task, {"text": TEXTS.get(task, TEXT)})


def _shell(folder: str, task: str, fields: Mapping[str, Any]) -> str:
    if task not in FIELDS:
        return f"rpln run {shlex.quote(folder)} {shlex.quote(fields['text'])}"
    pairs = [(name, text) for name, value in fields.items() for text in (value if isinstance(value, list) else [value])]
    return " \\\n  ".join(
        [f"rpln run {shlex.quote(folder)}", *(f"--field {shlex.quote(f'{name}={text}')}" for name, text in pairs)]
    )


def _python(folder: str, task: str) -> str:
    return (
        f"from rpln_runtime import pipeline\n\nanswer = pipeline({folder!r})\nprint(answer({python_arguments(task)}))"
    )


def _triton(folder: str, task: str, fields: Mapping[str, Any]) -> str:
    serve = (
        f"rpln triton {shlex.quote(folder)} -o repository --name model\n"
        "tritonserver --model-repository=repository --cache-config=local,size=104857600\n"
    )
    if TASKS[task].generates:
        return f"{serve}curl localhost:8000/v2/models/model/generate_stream -d '{json.dumps(fields)}'"
    lists = {name: value if isinstance(value, list) else [value] for name, value in fields.items()}
    inputs = [
        {"name": name, "datatype": "BYTES", "shape": [1, len(values)], "data": values} for name, values in lists.items()
    ]
    return f"{serve}curl localhost:8000/v2/models/model/infer -d '{json.dumps({'inputs': inputs})}'"
