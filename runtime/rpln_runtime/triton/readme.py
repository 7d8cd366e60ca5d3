"""The README.md of a repository: how to serve it, how to ask, its limits, and what may be changed."""

import json
from importlib import resources
from typing import Final

from rpln_runtime._version import __version__
from rpln_runtime.installing import extras_command
from rpln_runtime.triton.plan import RepositoryPlan
from rpln_runtime.triton.request import MOST_OPTION_BYTES, OPTIONS
from rpln_runtime.triton.response import COUNT

IMAGE: Final = "nvcr.io/nvidia/tritonserver:26.09-py3"
"""The image of a server that has the fixes of NVIDIA's security bulletins up to May 2026."""

_PRIVATE: Final = """
Only `{name}` is for clients. The other models are private: ids beyond the vocabulary that are sent to `{name}_model` \
fail the requests of others that run in the same batch. Triton's `--http-restricted-api` and \
`--grpc-restricted-protocol` restrict kinds of requests, not models. A proxy can do it by the path, as `nginx.conf` in \
`docs/deploy` does. The path of a gRPC request does not name the model: let only clients that you trust reach that port.

## Change

| model | what it does | what you may want to change |
|---|---|---|
| `{name}` | it is the ensemble of the others, which clients ask | `response_cache` |
| `{name}_tokenizer` | it turns texts into rows, padded to {buckets} tokens | `instance_group`, `parameters` |
| `{name}_model` | it runs the graph | `max_queue_delay_microseconds`, `instance_group`, threads |
| `{name}_answers` | it turns outputs into answers | `instance_group`, `parameters` |

Only requests of equal shapes run together. With fewer buckets more requests do, and there is more padding.
"""


def serve_command(plan: RepositoryPlan) -> str:
    """Return the command that serves the repository, in its folder."""
    return f"tritonserver --model-repository=. {_flags(plan)}"


def ask_command(plan: RepositoryPlan) -> str:
    """Return a command that asks a server on this machine."""
    call, body = ("generate_stream", _prompt()) if plan.generates else ("infer", _body(plan))
    return f"curl localhost:8000/v2/models/{plan.names.served}/{call} -d '{json.dumps(body)}'"


def readme(plan: RepositoryPlan) -> str:
    """Return the text of README.md."""
    manifest = plan.manifest
    template = resources.files(__package__).joinpath("readme_template.md").read_text(encoding="utf-8")
    text = template.format(
        name=plan.names.served,
        task=manifest.task,
        version=__version__,
        source=f"{manifest.source.name} ({manifest.source.sha256[:12]})",
        check=extras_command("triton"),
        wheel=f"rpln_runtime-{__version__}-py3-none-any.whl",
        image=IMAGE,
        flags=_flags(plan),
        serve=serve_command(plan),
        ask=ask_command(plan),
        **(_of_generator(plan) if plan.generates else _of_encoder(plan)),
    )
    return f"{text.rstrip()}\n"


def _of_encoder(plan: RepositoryPlan) -> dict[str, str]:
    """Return the parts of the template that differ where a request gets one answer."""
    name, rows, tokens = plan.names.served, plan.batch_size, plan.manifest.usable_length
    columns = ", ".join(f"`{column.name}`" for column in plan.interface.columns)
    return {
        "steps": "the steps before and after the model",
        "extra": "",
        "on_cpu": _on_cpu(plan, "add `--model-config-name=cpu`"),
        "answer": (
            f"answers with {columns}. Each has a row for each item of the request, with a value for each thing that "
            "was found. Where items have different numbers of values, rows are filled up, and "
            f"`{COUNT}` says how many values are real. The request may also have `{OPTIONS}`: for each item, options "
            "of the task as a JSON object, the same as those of `rpln_runtime.pipeline`."
        ),
        "limits": _table(
            ("items of a request", str(rows), "`--batch-size`"),
            ("rows that its items become", f"{rows}, of {tokens} tokens each", "`--batch-size`"),
            *_limits(plan, f"{name}_tokenizer"),
        ),
        "about_limits": (
            "Rows are not texts: a text that is read in windows becomes several rows, and every choice of multiple "
            f"choice is one. So a request of {rows} texts is refused if one of them needs two windows. Send each text "
            "in a request of its own: the server joins requests."
        ),
        "scaling": "Raise `count` in `instance_group` of the model that requests wait for.",
        "private": _PRIVATE.format(name=name, buckets=", ".join(map(str, plan.buckets))),
    }


def _of_generator(plan: RepositoryPlan) -> dict[str, str]:
    """Return the parts of the template that differ where a request gets text, piece by piece."""
    return {
        "steps": "the generator",
        "extra": "[gpu]",
        "on_cpu": _on_cpu(plan, "write `[cpu]` instead of `[gpu]`, and add `--model-config-name=cpu`"),
        "answer": (
            "answers with pieces of text as soon as there are any; over gRPC, use `ModelStreamInfer`. The request may "
            f"also have `{OPTIONS}`: a JSON object with the same options as those of `rpln_runtime.generator`."
        ),
        "limits": _table(
            ("prompts of a request", "1", "the server joins requests"),
            ("sequences that run together, also of one prompt", str(plan.batch_size), "`--batch-size`"),
            *_limits(plan, plan.names.served),
        ),
        "about_limits": (
            "Prompts that arrive within a millisecond of each other and have equal options run in one batch. The next "
            "batch starts when it is done, or at once in another instance."
        ),
        "scaling": "Raise `count` in `instance_group`: each instance runs a batch of its own.",
        "private": "",
    }


def _flags(plan: RepositoryPlan) -> str:
    return "--exit-timeout-secs=30" if plan.generates else "--cache-config=local,size=104857600"


def _on_cpu(plan: RepositoryPlan, advice: str) -> str:
    if "cpu" in plan.providers:
        return f"On a machine without a GPU, {advice}."
    return "This bundle computes in bf16, which needs a GPU."


def _limits(plan: RepositoryPlan, model: str) -> list[tuple[str, str, str]]:
    return [
        (
            f"bytes of the texts and `{OPTIONS}` of a request",
            f"{plan.max_text_bytes:,}",
            f"`--max-text-bytes`, or `max_text_bytes` in `{model}`",
        ),
        (f"bytes of the `{OPTIONS}` of an item", f"{MOST_OPTION_BYTES:,}", "in rpln-runtime"),
        (f"numbers and lists in `{OPTIONS}`", '`docs/triton.md`, "Limits"', "in rpln-runtime"),
    ]


def _table(*rows: tuple[str, str, str]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _prompt() -> object:
    """Return a request to a generator."""
    return {"text": "The old man", OPTIONS: json.dumps({"max_new_tokens": 40})}


def _body(plan: RepositoryPlan) -> object:
    """Return a request of one item, without optional fields."""
    texts = {name: [text] if isinstance(text, str) else text for name, text in plan.interface.example.items()}
    return {
        "inputs": [
            {"name": name, "datatype": "BYTES", "shape": [1, len(data)], "data": data} for name, data in texts.items()
        ]
    }
