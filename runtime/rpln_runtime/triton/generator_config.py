"""The configuration of a bundle that generates text: one model in Python, which answers a request piece by piece."""

import json

from rpln_runtime.triton.parts import LATEST, batching, instances, kind_of_provider, python_parameters, tensor
from rpln_runtime.triton.pbtxt import Message
from rpln_runtime.triton.plan import RepositoryPlan
from rpln_runtime.triton.request import OPTIONS


def generator_config(plan: RepositoryPlan, provider: str) -> Message:
    """Return the configuration: a prompt in, pieces of text out; `provider`, "cuda" or "cpu", runs the graphs."""
    chosen = {
        "options": json.dumps(plan.options),
        "batch_size": str(plan.batch_size),
        "max_text_bytes": str(plan.max_text_bytes),
        "provider": provider,
    }
    return {
        "name": plan.names.served,
        "backend": "python",
        "max_batch_size": plan.batch_size,
        "version_policy": LATEST,
        "input": [tensor("text", "TYPE_STRING", 1), tensor(OPTIONS, "TYPE_STRING", 1) | {"optional": True}],
        "output": [tensor("text", "TYPE_STRING", 1), tensor("sequence", "TYPE_INT64", 1)],
        "dynamic_batching": batching(),
        "instance_group": instances(kind_of_provider(provider)),
        "model_transaction_policy": {"decoupled": True},
        "parameters": python_parameters(chosen),
    }
