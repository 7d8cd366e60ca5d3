"""The configurations of a repository of an encoder: each function returns one, a ModelConfig of Triton as a dict.

Source: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
"""

import json
from collections.abc import Iterable

from rpln_runtime.engines.providers import PROVIDERS
from rpln_runtime.manifest import TensorSpec
from rpln_runtime.triton.labels import labels_field
from rpln_runtime.triton.parts import (
    LATEST,
    batching,
    instances,
    kind_of_provider,
    parameters,
    python_parameters,
    tensor,
    tensor_from_spec,
    warmup,
)
from rpln_runtime.triton.pbtxt import Message, entries
from rpln_runtime.triton.plan import RepositoryPlan
from rpln_runtime.triton.request import OPTIONS
from rpln_runtime.triton.response import COUNT
from rpln_runtime.triton.steps.rows import COLUMNS as TOKEN_COLUMNS
from rpln_runtime.triton.steps.rows import ITEMS, TOKENS


def ensemble_config(plan: RepositoryPlan) -> Message:
    """Return the configuration of the ensemble, which clients ask: texts in, answers out."""
    names = plan.names
    fed, answered = _names(plan.graph.inputs), _names(plan.answered)
    asked = [field.name for field in plan.fields] + [OPTIONS]
    given = [column.name for column in plan.interface.columns] + [COUNT]
    return {
        "name": names.served,
        "platform": "ensemble",
        "max_batch_size": plan.batch_size,
        "version_policy": LATEST,
        "input": _request(plan),
        "output": _response(plan),
        "ensemble_scheduling": {
            "step": [
                _step(names.tokenizer, asked, [*fed, TOKENS, ITEMS]),
                _step(names.model, fed, answered),
                _step(names.answers, [*answered, TOKENS, ITEMS], given),
            ]
        },
        "response_cache": {"enable": True},
    }


def tokenizer_config(plan: RepositoryPlan) -> Message:
    """Return the configuration of the first step: texts in, rows for the model out."""
    chosen = {
        "options": json.dumps(plan.options),
        "buckets": ",".join(map(str, plan.buckets)),
        "most_rows": str(plan.batch_size),
        "max_text_bytes": str(plan.max_text_bytes),
    }
    return {
        "name": plan.names.tokenizer,
        "backend": "python",
        "max_batch_size": plan.batch_size,
        "version_policy": LATEST,
        "input": _request(plan),
        "output": [*map(tensor_from_spec, plan.graph.inputs), *_between()],
        "dynamic_batching": batching(),
        "instance_group": instances("KIND_CPU"),
        "parameters": python_parameters(chosen),
    }


def model_config(plan: RepositoryPlan, provider: str) -> Message:
    """Return the configuration of the graph on ONNX Runtime, run by `provider`: "cuda" or "cpu"."""
    return {
        "name": plan.names.model,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "default_model_filename": plan.graph.path_for(provider),
        "max_batch_size": plan.batch_size,
        "version_policy": LATEST,
        "input": [tensor_from_spec(spec) for spec in plan.graph.inputs],
        "output": [tensor_from_spec(spec) | labels_field(spec, plan.manifest) for spec in plan.graph.outputs],
        "dynamic_batching": batching(),
        "instance_group": instances(kind_of_provider(provider)),
        **_settings(plan, provider),
        "model_warmup": [warmup(plan.graph.inputs, length) for length in plan.buckets],
    }


def answers_config(plan: RepositoryPlan) -> Message:
    """Return the configuration of the last step: outputs of the model in, answers out."""
    return {
        "name": plan.names.answers,
        "backend": "python",
        "max_batch_size": plan.batch_size,
        "version_policy": LATEST,
        "input": [*map(tensor_from_spec, plan.answered), *_between()],
        "output": _response(plan),
        "dynamic_batching": batching(),
        "instance_group": instances("KIND_CPU"),
        "parameters": python_parameters({"options": json.dumps(plan.options)}),
    }


def _settings(plan: RepositoryPlan, provider: str) -> Message:
    """Return the settings of ONNX Runtime that `rpln_runtime.load` uses, too, where they are not its defaults."""
    measured = plan.manifest.optimization
    threads = measured.threads if measured and provider == measured.provider else None
    settings: Message = {}
    if options := PROVIDERS[provider].options:
        accelerator = {"name": provider, "parameters": entries(options)}
        settings["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}}
    if threads is not None:
        settings["parameters"] = parameters({"intra_op_thread_count": str(threads)})
    return settings


def _request(plan: RepositoryPlan) -> list[Message]:
    fields = [
        tensor(field.name, "TYPE_STRING", -1 if field.several else 1) | ({"optional": True} if field.optional else {})
        for field in plan.fields
    ]
    return [*fields, tensor(OPTIONS, "TYPE_STRING", 1) | {"optional": True}]


def _response(plan: RepositoryPlan) -> list[Message]:
    hidden = [int(axis) for spec in plan.answered for axis in spec.shape[2:] if isinstance(axis, int)]
    return [
        *(
            tensor(column.name, column.data_type, -1, *(hidden if column.wide else ()))
            for column in plan.interface.columns
        ),
        tensor(COUNT, "TYPE_INT64", 1),
    ]


def _between() -> list[Message]:
    """Return the tensors that the first step makes for the last one."""
    return [tensor(TOKENS, "TYPE_INT64", -1, TOKEN_COLUMNS), tensor(ITEMS, "TYPE_STRING", 1)]


def _step(model: str, inputs: Iterable[str], outputs: Iterable[str]) -> Message:
    """Return a step of the ensemble. Its tensors have the same names in the ensemble as in the model."""
    return {
        "model_name": model,
        "model_version": -1,
        "input_map": entries({name: name for name in inputs}),
        "output_map": entries({name: name for name in outputs}),
    }


def _names(specs: Iterable[TensorSpec]) -> list[str]:
    return [spec.name for spec in specs]
