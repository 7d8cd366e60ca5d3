"""Stands for Triton's tensorrt backend where there is no GPU, and refuses the configurations that it would refuse.

A plan can be neither run nor read here. What the engine takes is in engine.json, which its builder read back from it,
and in the manifest of its bundle.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as triton

TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "int64": "TYPE_INT64"}


class TritonPythonModel:
    """A model that only compares its configuration with the engine, and answers nothing."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Leave the configuration as it is written."""
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Compare the configuration with the engine."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        plan = folder / (config.get("default_model_filename") or "model.plan")
        if not plan.is_file():
            raise triton.TritonModelException(f"unable to find {plan.name}")
        engine = json.loads((folder / "engine.json").read_text())
        graph = json.loads((folder / "rpln.json").read_text())["graphs"][0]
        for side in ("input", "output"):
            found = {one["name"]: (one["data_type"], [int(size) for size in one["dims"]]) for one in config[side]}
            expected = {one["name"]: (TYPES[one["dtype"]], dims(one["shape"])) for one in graph[f"{side}s"]}
            if found != expected:
                raise triton.TritonModelException(f"{side} is {found} in the configuration, {expected} in the engine")
        chosen = [int(name) for group in config["instance_group"] for name in group.get("profile", ["0"])]
        if max(chosen) >= len(engine["profiles"]):
            raise triton.TritonModelException(f"the engine has no profile {max(chosen)}")
        largest = max(engine["profiles"][place]["batch"]["maximum"] for place in chosen)
        if config["max_batch_size"] > largest:
            raise triton.TritonModelException(f"max_batch_size is beyond {largest}, the largest of the profiles")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request, those of warm-up included, with an error that says that nothing runs here."""
        return [triton.InferenceResponse(error=triton.TritonError("there is no GPU")) for _ in requests]


def dims(shape: Sequence[int | str]) -> list[int]:
    """Return the dims of a configuration: without the batch, with -1 for any size."""
    return [size if isinstance(size, int) else -1 for size in shape[1:]]
