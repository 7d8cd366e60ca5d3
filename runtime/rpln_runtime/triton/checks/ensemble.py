"""The ensemble: its steps exist, and every tensor between them is made once, has one type, and is used."""

from collections.abc import Iterator, Mapping
from typing import Any

from rpln_runtime.triton.checks.model import Model
from rpln_runtime.triton.pbtxt import Message


def check_ensemble(model: Model, models: Mapping[str, Model]) -> Iterator[str]:
    """Yield the problems of the ensemble `model` among all `models` of the repository."""
    if model.config.platform != "ensemble":
        yield f'platform is {model.config.platform!r}, expected "ensemble"'
    steps = model.config.ensemble_scheduling.step
    if not steps:
        yield "ensemble_scheduling has no step"
    made = _by_name(model.inputs)
    used: set[str] = set()
    for step in steps:
        name = step.model_name
        if name not in models:
            yield f"a step is {name!r}, which is no model of the repository: expected one of {', '.join(models)}"
            continue
        if step.model_version != -1:
            yield f"the step {name} asks for version {step.model_version}, expected -1, the newest"
        if models[name].config.max_batch_size < model.config.max_batch_size:
            yield f"max_batch_size is {model.config.max_batch_size}, more than {name} takes"
        yield from _inputs(step, models[name], made)
        used |= set(step.input_map.values())
        yield from _outputs(step, models[name], made)
    yield from _ends(model, made, used)


def _inputs(step: Any, model: Model, made: Mapping[str, Message]) -> Iterator[str]:
    """Yield the inputs of the step's model that get no tensor made before, or one of another type."""
    taken, wired = _by_name(model.inputs), step.input_map
    for name in sorted(wired.keys() - taken.keys()):
        yield f"input_map of {model.name} feeds {name!r}, which that model does not have"
    for name, tensor in taken.items():
        if name not in wired:
            yield f"input_map of {model.name} does not feed {name!r}"
        elif wired[name] not in made:
            yield f"input_map of {model.name} takes {wired[name]!r}, which no step before it makes"
        else:
            yield from _same(f"{name!r} of {model.name}", tensor, made[wired[name]])


def _outputs(step: Any, model: Model, made: dict[str, Message]) -> Iterator[str]:
    """Yield the outputs that the step's model does not give or that exist already, and add them all to `made`."""
    given = _by_name(model.outputs)
    for name, tensor in step.output_map.items():
        if name not in given:
            yield f"output_map of {model.name} takes {name!r}, which that model does not give"
        elif tensor in made:
            yield f"output_map of {model.name} makes {tensor!r}, which is there already"
        made[tensor] = given.get(name, {})


def _ends(model: Model, made: Mapping[str, Message], used: set[str]) -> Iterator[str]:
    """Yield the inputs of the ensemble that no step takes, and the outputs that no step makes."""
    for name in _by_name(model.inputs):
        if name not in used:
            yield f"input {name!r} goes to no step"
    for name, tensor in _by_name(model.outputs).items():
        if name not in made:
            yield f"output {name!r} is made by no step"
        else:
            yield from _same(f"output {name!r}", tensor, made[name])


def _same(where: str, one: Message, other: Message) -> Iterator[str]:
    for field in ("data_type", "dims"):
        if one.get(field) != other.get(field):
            yield f"{field} of {where} is {one.get(field)}, what comes there has {other.get(field)}"
    if other.get("optional") and not one.get("optional"):
        yield f"{where} may be left out by clients, and its step needs it"


def _by_name(tensors: list[Message]) -> dict[str, Message]:
    return {tensor["name"]: tensor for tensor in tensors}
