"""The names of the classes that a task scores, as the config has them."""

from transformers import RobertaPreLayerNormConfig

from rpln_export.errors import PlanError
from rpln_model.config import label_count
from rpln_runtime.tasks import Task


def has_labels(task: Task) -> bool:
    """Return whether the task's outputs are scores of the classes in the config."""
    return any("num_labels" in tensor.axes for tensor in task.outputs)


def labels_from_config(config: RobertaPreLayerNormConfig, source: str) -> tuple[str, ...]:
    """Return the names of the classes, in the order of their scores. `source` is where the config lies, for messages.

    Raises PlanError if id2label does not number them from 0 on.
    """
    count = label_count(config)
    names = {int(index): name for index, name in (config.id2label or {}).items()}
    if not count or names.keys() != set(range(count)):
        raise PlanError(
            f"id2label in the config of {source} names the classes {', '.join(map(str, sorted(names))) or 'none'}; "
            f"expected 0 to {max(count, 1) - 1}, one for each score. Correct id2label in config.json."
        )
    return tuple(names[index] for index in range(count))
