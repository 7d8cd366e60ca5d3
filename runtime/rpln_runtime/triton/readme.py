"""README.md of a repository: how to serve it, what to ask, what may be changed."""

import json
from typing import Final

from rpln_runtime._version import __version__
from rpln_runtime.triton.plan import RepositoryPlan
from rpln_runtime.triton.request import OPTIONS
from rpln_runtime.triton.response import COUNT

_SERVING: Final = """# {name}: {task} for Triton Inference Server

Written by rpln-runtime {version} from the bundle {source}. Check it with `rpln triton --check .` after a change.

## Serve

The steps in Python are run by the server's own Python, which needs the package that they are in:

```
pip install "rpln-runtime{extra}=={version}"
tritonserver --model-repository=. {flags}
```

On a machine without a GPU add `--model-config-name=cpu`.{note} Several repositories go in one server, each with a
`--model-repository` of its own. The Python backend of some servers, 24.10 among them, gives empty outputs with numpy 2:
there, `pip install "numpy<2"` as well.
"""

_ENCODER: Final = """
## Ask

```
curl localhost:8000/v2/models/{name}/infer -d '{body}'
```

answers with {columns}:
one row for each item of the request, and in it one value for each thing that was found; `{count}` says how many of them
are real where several items have different numbers. `{options}`, which may be left out, holds options of the task as
JSON, as `rpln_runtime.pipeline` takes them.

## Change

| model | what it does | worth changing |
|---|---|---|
| `{name}` | the ensemble that clients ask | `response_cache` |
| `{name}_tokenizer` | texts to rows, padded to {buckets} tokens | `instance_group`, `parameters` |
| `{name}_model` | the graph | `max_queue_delay_microseconds`, `instance_group`, threads |
| `{name}_answers` | outputs to answers | `instance_group`, `parameters` |

Requests of equal shapes run together: fewer buckets join more of them, and pad more.
"""

_GENERATOR: Final = """
## Ask

```
curl localhost:8000/v2/models/{name}/generate_stream -d '{body}'
```

answers with pieces of text as they come; over gRPC it is `ModelStreamInfer`. `{options}`, which may be left out, holds
options as JSON, as `rpln_runtime.generator` takes them. Prompts that come within a millisecond of each other and have
equal options grow in one batch of at most {batch_size}; `instance_group` makes room for more batches at a time.
"""


def readme(plan: RepositoryPlan) -> str:
    """The text of README.md."""
    manifest, name = plan.manifest, plan.names.served
    shared = {"name": name, "options": OPTIONS, "batch_size": plan.batch_size}
    serving = _SERVING.format(
        name=name,
        task=manifest.task,
        version=__version__,
        source=f"{manifest.source.name} ({manifest.source.sha256[:12]})",
        extra="[gpu]" if plan.generates else "",
        flags="" if plan.generates else "--cache-config=local,size=104857600",
        note="" if "cpu" in plan.providers else " (Not this one: it computes in bf16.)",
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
    """Return a request of one item, without what may be left out."""
    texts = {name: [text] if isinstance(text, str) else text for name, text in plan.interface.example.items()}
    return {
        "inputs": [
            {"name": name, "datatype": "BYTES", "shape": [1, len(data)], "data": data} for name, data in texts.items()
        ]
    }
