"""The README.md of a repository: how to serve it, how to ask, and what may be changed."""

import json
from typing import Final

from rpln_runtime._version import __version__
from rpln_runtime.installing import extras_command
from rpln_runtime.triton.plan import RepositoryPlan
from rpln_runtime.triton.request import OPTIONS
from rpln_runtime.triton.response import COUNT

_SERVING: Final = """# {name}: {task} for Triton Inference Server

rpln-runtime {version} wrote this repository from the bundle {source}. After a change, check it with
`rpln triton --check .`, which needs `{check}`.

## Serve

The server's own Python, 3.11 or newer, runs the steps before and after the model, so it needs rpln-runtime. The package
is on no index. `make wheels` in a clone of rpln-export writes its wheel into `dist/`; copy the wheel to the server:

```
pip install "rpln_runtime-{version}-py3-none-any.whl{extra}"
tritonserver --model-repository=. {flags}
```

On a machine without a GPU add `--model-config-name=cpu`.{note} One server can serve several repositories, each named by
a `--model-repository`. With numpy 2, the Python backend of some servers (24.10 is one) returns empty outputs; there,
run `pip install "numpy<2"` as well.
"""

_ENCODER: Final = """
## Ask

```
curl localhost:8000/v2/models/{name}/infer -d '{body}'
```

answers with {columns}.
Each has a row for each item of the request, with a value for each thing that was found. Where items have different
numbers of values, rows are filled up, and `{count}` says how many values are real. The request may also have
`{options}`: options of the task as a JSON object, the same as those of `rpln_runtime.pipeline`.

## Change

| model | what it does | what you may want to change |
|---|---|---|
| `{name}` | it is the ensemble of the others, which clients ask | `response_cache` |
| `{name}_tokenizer` | it turns texts into rows, padded to {buckets} tokens | `instance_group`, `parameters` |
| `{name}_model` | it runs the graph | `max_queue_delay_microseconds`, `instance_group`, threads |
| `{name}_answers` | it turns outputs into answers | `instance_group`, `parameters` |

Only requests of equal shapes run together. With fewer buckets more requests do, and there is more padding.
"""

_GENERATOR: Final = """
## Ask

```
curl localhost:8000/v2/models/{name}/generate_stream -d '{body}'
```

answers with pieces of text as soon as there are any; over gRPC, use `ModelStreamInfer`. The request may also have
`{options}`: a JSON object with the same options as those of `rpln_runtime.generator`. Prompts that arrive within a
millisecond of each other and have equal options run in one batch of at most {batch_size}. More instances, set by
`instance_group`, run more batches at once.
"""


def readme(plan: RepositoryPlan) -> str:
    """Return the text of README.md."""
    manifest, name = plan.manifest, plan.names.served
    shared = {"name": name, "options": OPTIONS, "batch_size": plan.batch_size}
    serving = _SERVING.format(
        name=name,
        task=manifest.task,
        version=__version__,
        source=f"{manifest.source.name} ({manifest.source.sha256[:12]})",
        check=extras_command("triton"),
        extra="[gpu]" if plan.generates else "",
        flags="" if plan.generates else "--cache-config=local,size=104857600",
        note="" if "cpu" in plan.providers else " (Not this bundle: it computes in bf16, which needs a GPU.)",
    )
    if plan.generates:
        body = {"text": "The old man", OPTIONS: json.dumps({"max_new_tokens": 40})}
        return serving + _GENERATOR.format(body=json.dumps(body), **shared)
    columns = ", ".join(f"`{column.name}`" for column in plan.interface.columns)
    buckets = ", ".join(map(str, plan.buckets))
    return serving + _ENCODER.format(
        body=json.dumps(_body(plan)), columns=columns, count=COUNT, buckets=buckets, **shared
    )


def _body(plan: RepositoryPlan) -> object:
    """Return the request that the README shows: one item, without optional fields."""
    texts = {name: [text] if isinstance(text, str) else text for name, text in plan.interface.example.items()}
    return {
        "inputs": [
            {"name": name, "datatype": "BYTES", "shape": [1, len(data)], "data": data} for name, data in texts.items()
        ]
    }
