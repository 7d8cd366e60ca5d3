"""The ensemble: steps that exist, wired so that every tensor is made once, of one type, and used."""

from collections.abc import Iterator, Mapping

from rpln_runtime.triton.checks.model import Model
from rpln_runtime.triton.pbtxt import Message


def check_ensemble(model: Model, models: Mapping[str, Model]) -> Iterator[str]:
    """The problems of the ensemble `model` among all `models` of the repository."""
    if model.config.get("platform") != "ensemble":
        yield f'platform is {model.config.get("platform")!r}, expected "ensemble"'
    steps = model.config.get("ensemble_scheduling", {}).get("step", [])
    if not steps:
        yield "ensemble_scheduling has no step"
    made = _by_name(model.config.get("input", []))
    used: set[str] = set()
    for step in steps:
        name = step.get("model_name", "")
        if name not in models:
            yield f"a step is {name!r}, which is no model of the repository: expected one of {', '.join(models)}"
            continue
        if step.get("model_version", -1) != -1:
            yield f"the step {name} asks for version {step['model_version']}, expected -1, the newest"
        if models[name].config.get("max_batch_size", 0) < model.config.get("max_batch_size", 0):
            yield f"max_batch_size is {model.config['max_batch_size']}, more than {name} takes"
        yield from _inputs(step, models[name], made)
        used |= set(_map(step, "input_map").values())
        yield from _outputs(step, models[name], made)
    yield from _ends(model, made, used)


def _inputs(step: Message, model: Model, made: Mapping[str, Message]) -> Iterator[str]:
    """What the step takes was made before, and is what its model takes."""
    taken, wired = _by_name(model.config.get("input", [])), _map(step, "input_map")
    for name in sorted(wired.keys() - taken.keys()):
        yield f"input_map of {model.name} feeds {name!r}, which that model has not"
    for name, tensor in taken.items():
        if name not in wired:
            yield f"input_map of {model.name} does not feed {name!r}"
        elif wired[name] not in made:
            yield f"input_map of {model.name} takes {wired[name]!r}, which no step before it makes"
        else:
            yield from _same(f"{name!r} of {model.name}", tensor, made[wired[name]])


def _outputs(step: Message, model: Model, made: dict[str, Message]) -> Iterator[str]:
    """What the step gives comes from its model, under a name of its own; it is then `made`."""
    given = _by_name(model.config.get("output", []))
    for name, tensor in _map(step, "output_map").items():
        if name not in given:
            yield f"output_map of {model.name} takes {name!r}, which that model does not give"
        elif tensor in made:
            yield f"output_map of {model.name} makes {tensor!r}, which is there already"
        made[tensor] = given.get(name, {})


def _ends(model: Model, made: Mapping[str, Message], used: set[str]) -> Iterator[str]:
    """Inputs of the ensemble go somewhere, its outputs come from somewhere."""
    for name in _by_name(model.config.get("input", [])):
        if name not in used:
            yield f"input {name!r} goes to no step"
    for name, tensor in _by_name(model.config.get("output", [])).items():
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
    return {tensor.get("name", ""): tensor for tensor in tensors}


def _map(step: Message, field: str) -> dict[str, str]:
    return {row.get("key", ""): row.get("value", "") for row in step.get(field, [])}
