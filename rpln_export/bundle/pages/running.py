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
TEXTS: Final[Mapping[str, str]] = {"fill-mask": "The <mask> walked to the boat.", "text-generation": "The old man"}
"""The text of each task that TEXT does not suit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    """A way to run the bundle: its title, a sentence on what it needs, and the code."""

    title: str
    needs: str
    code: str


def snippets(task: str, folder: str) -> list[Snippet]:
    """Return the ways to run a bundle of `task`, which is in `folder`."""
    fields = FIELDS.get(task, {"text": TEXTS.get(task, TEXT)})
    item = fields if task in FIELDS else fields["text"]
    return [
        Snippet(title="Shell", needs="Needs rpln-export, or rpln-runtime alone.", code=_shell(folder, task, fields)),
        Snippet(
            title="Python",
            needs="Needs rpln-runtime: numpy, tokenizers and ONNX Runtime, no torch.",
            code=_python(folder, task, item),
        ),
        Snippet(title="C++", needs="Needs the headers of runtime/cpp and ONNX Runtime.", code=_cpp(folder, item)),
        Snippet(title="Triton", needs="Needs a Triton server with rpln-runtime.", code=_triton(folder, task, fields)),
    ]


def _shell(folder: str, task: str, fields: Mapping[str, Any]) -> str:
    if task not in FIELDS:
        return f"rpln run {shlex.quote(folder)} {shlex.quote(fields['text'])}"
    pairs = [(name, text) for name, value in fields.items() for text in (value if isinstance(value, list) else [value])]
    return " \\\n  ".join(
        [f"rpln run {shlex.quote(folder)}", *(f"--field {shlex.quote(f'{name}={text}')}" for name, text in pairs)]
    )


def _python(folder: str, task: str, item: Any) -> str:
    call = ", ".join(f"{name}={value!r}" for name, value in item.items()) if task in FIELDS else repr(item)
    return f"from rpln_runtime import pipeline\n\nanswer = pipeline({folder!r})\nprint(answer({call}))"


def _cpp(folder: str, item: Any) -> str:
    # JSON writes a text as C++ does.
    document = json.dumps(item, ensure_ascii=False)
    argument = f'rpln::Json::parse(R"json({document})json")' if isinstance(item, dict) else document
    return (
        '#include <iostream>\n\n#include "rpln.hpp"\n\nint main() {\n'
        f"  const rpln::Pipeline answer({json.dumps(folder, ensure_ascii=False)});\n"
        f"  std::cout << answer({argument}) << '\\n';\n}}"
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
