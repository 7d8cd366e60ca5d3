"""The configuration of a TensorRT engine. It has the input and output types of the graph that it was built from."""

from typing import Final

from rpln_runtime.tasks import BATCH
from rpln_runtime.triton.labels import labels_field
from rpln_runtime.triton.parts import LATEST, batching, instances, tensor_from_spec, warmup
from rpln_runtime.triton.pbtxt import Message
from rpln_runtime.triton.plan import RepositoryPlan

PLAN_FILE: Final = "model.plan"
ENGINE_FILE: Final = "engine.json"


def engine_config(plan: RepositoryPlan) -> Message:
    """Return the configuration of the engine. Each instance has all profiles of the engine."""
    assert plan.engine is not None
    profiles = plan.engine.profiles
    tuned = sorted({profile[BATCH].optimum for profile in profiles if profile[BATCH].optimum <= plan.batch_size})
    return {
        "name": plan.names.model,
        "platform": "tensorrt_plan",
        "backend": "tensorrt",
        "default_model_filename": PLAN_FILE,
        "max_batch_size": plan.batch_size,
        "version_policy": LATEST,
        "input": [tensor_from_spec(spec) for spec in plan.graph.inputs],
        "output": [tensor_from_spec(spec) | labels_field(spec, plan.manifest) for spec in plan.graph.outputs],
        "dynamic_batching": batching(tuned),
        "instance_group": instances("KIND_GPU", profile=[str(place) for place in range(len(profiles))]),
        "model_warmup": [warmup(plan.graph.inputs, length) for length in plan.buckets],
    }
