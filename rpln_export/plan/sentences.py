"""How a checkpoint of sentence-transformers makes one vector of a text, read from its folder; no class is imported.

modules.json lists the modules: the network first, then pooling, then layers over the pooled vector. Both layouts are
read, that of versions 2 to 5 (`pooling_mode_mean_tokens`, `max_seq_length`) and that of version 6 (`pooling_mode`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from transformers import RobertaPreLayerNormConfig

from rpln_export.errors import PlanError
from rpln_export.plan.choices import NONE, choose
from rpln_model.sentences import POOLINGS
from rpln_model.weights import is_file_path, weight_files
from rpln_runtime.documents import DocumentError, read_document, shown
from rpln_runtime.limits import OTHER
from rpln_runtime.tasks import Task

MODULES: Final = "modules.json"
"""The file that makes a folder one of sentence-transformers."""
SETTINGS: Final = "config_sentence_transformers.json"
NETWORK_SETTINGS: Final = ("sentence_bert_config.json", "sentence_roberta_config.json")
"""The names that the file of the network's settings may have."""
MODULE_CONFIG: Final = "config.json"
PROMPTS: Final = ("query", "document")
"""The names of prompts that every model of sentence-transformers has; they are empty unless the folder gives them."""

ACTIVATIONS: Final = {
    "torch.nn.modules.linear.Identity": "Identity",
    "torch.nn.modules.activation.ReLU": "ReLU",
    "torch.nn.modules.activation.Sigmoid": "Sigmoid",
    "torch.nn.modules.activation.Tanh": "Tanh",
}
"""The activations of a Dense module by their names in its file, and their names in torch.nn."""
_OLD_POOLINGS: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The poolings by their names before version 6, in the order in which their vectors are joined."""
_EMBEDDING: Final = "sentence_embedding"


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalizeLayer:
    """A layer that divides the vector by its length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLayer:
    """A linear layer with an activation, whose weights are in `folder`.

    Attributes:
        folder: the folder of its weights.
        in_features: the size of the vectors that it takes.
        out_features: the size of the vectors that it gives.
        bias: whether it has a bias.
        activation: the name of the activation in torch.nn.
        residual: whether its input is added to its result.
    """

    folder: Path
    in_features: int
    out_features: int
    bias: bool
    activation: str
    residual: bool


Layer = NormalizeLayer | DenseLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class SentencePlan:
    """How texts become vectors.

    Attributes:
        poolings: rows of POOLINGS, whose vectors are joined; empty if the graph gives all hidden states.
        layers: what the pooled vector goes through.
        embedding_size: the number of values that are kept of the result; None keeps all.
        truncates: whether texts that are too long are cut, which `encode` of sentence-transformers does.
        max_length: the most tokens of a text; None means as many as the tokenizer says.
        lower_case: whether texts are lower-cased.
        prompts: the texts that can be put before a text, by name.
        default_prompt: the name of the prompt that is put there if the user chooses none.
        include_prompt: whether the tokens of a prompt are pooled, too. Otherwise no prompt can be put before a text.
    """

    poolings: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()
    embedding_size: int | None = None
    truncates: bool = False
    max_length: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    include_prompt: bool = True

    @property
    def weight_files(self) -> list[Path]:
        """The files of the layers' weights."""
        return [path for layer in self.layers if isinstance(layer, DenseLayer) for path in weight_files(layer.folder)]


def network_folder(folder: Path) -> Path:
    """Return the folder of the network: the one in `folder` that modules.json names, or else `folder` itself.

    Raises PlanError for a modules.json that cannot be read or lists what is not supported.
    """
    return _modules(folder)[0].folder if (folder / MODULES).is_file() else folder


def sentences_from_choice(
    pooling: Sequence[str], task: Task, config: RobertaPreLayerNormConfig, folder: Path
) -> SentencePlan | None:
    """Return how texts become vectors: as the checkpoint in `folder` says, with the poolings that were asked for.

    Returns None for a task that makes no vectors, and for a folder that is none of sentence-transformers' if nothing
    was asked for. Raises PlanError for what is not supported, which names the module and its file.
    """
    if not task.outputs_instead:
        if pooling:
            raise PlanError(f"--pooling is an option of feature-extraction, but the task is {task.name}. Leave it out.")
        return None
    plan = _plan_from_folder(folder) if (folder / MODULES).is_file() else None
    if pooling:
        chosen = () if tuple(pooling) == (NONE,) else tuple(map(_pooling, dict.fromkeys(pooling)))
        plan = replace(plan or SentencePlan(), poolings=chosen)
    if plan is None:
        return None
    if not plan.poolings:
        return replace(plan, layers=(), embedding_size=None) if plan.truncates else None
    _check_sizes(plan, config.hidden_size, folder)
    return plan


def _pooling(name: str) -> str:
    choose({**POOLINGS, NONE: None}, name, "pooling")
    if name == NONE:
        raise PlanError(f"--pooling {NONE} leaves the hidden states as they are. Give no other pooling with it.")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Module:
    """An entry of modules.json: the kind of the module, and its folder."""

    kind: str
    folder: Path


def _modules(root: Path) -> list[_Module]:
    """Return the modules of the folder `root`: the network first, then pooling, then layers over its vector."""
    path = root / MODULES
    entries = _json(path)
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("type"), str) and isinstance(entry.get("path"), str)
        for entry in entries
    ):
        raise PlanError(f"{path} is no list of modules with type and path. Save the model again, or remove the file.")
    modules = [_Module(kind=_kind(entry["type"], path), folder=_inside(root, entry["path"])) for entry in entries]
    kinds = [module.kind for module in modules]
    if kinds[:2] != [_NETWORK, _POOLING] or not set(kinds[2:]) <= _LAYERS.keys():
        raise PlanError(
            f"{path} lists the modules {', '.join(kinds) or 'none'}, expected {_NETWORK}, {_POOLING} and then any of "
            f"{', '.join(_LAYERS)}. Remove the file to export the network alone."
        )
    return modules


def _kind(type_name: str, path: Path) -> str:
    """Return the name of a module's class, which may be in another Python module from version to version."""
    package, name = type_name.partition(".")[0], type_name.rpartition(".")[2]
    if package != "sentence_transformers" or name not in {_NETWORK, _POOLING, *_LAYERS}:
        raise PlanError(
            f"{path} lists the module {type_name}, which is not supported: expected {_NETWORK}, {_POOLING}, "
            f"{', '.join(_LAYERS)} of sentence_transformers. Remove the file to export the network alone."
        )
    return name


def _inside(root: Path, path: str) -> Path:
    """Return the folder `path` of `root`. Raises PlanError for one that leads out of it."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or not is_file_path(path):
        raise PlanError(
            f"{root / MODULES} has the path {shown(path)}, which is not in the folder. Do not use this model."
        )
    return root / parts


def _plan_from_folder(root: Path) -> SentencePlan:
    """Return the plan that the files in the folder `root` describe."""
    network, pooling, *layers = _modules(root)
    settings = _settings(root)
    prompts = dict.fromkeys(PROMPTS, "") | {name: text or "" for name, text in settings.prompts.items()}
    if settings.default_prompt is not None and settings.default_prompt not in prompts:
        raise PlanError(
            f"{root / SETTINGS} has the default_prompt_name {settings.default_prompt!r}, expected one of "
            f"{', '.join(prompts)}. Correct it there."
        )
    poolings, include_prompt = _poolings(pooling.folder / MODULE_CONFIG)
    if any(prompts.values()) and not include_prompt:
        raise PlanError(
            f"{pooling.folder / MODULE_CONFIG} has include_prompt false, which is not supported beside the prompts in "
            f"{root / SETTINGS}. Set it to true, which gives other vectors, or remove the prompts."
        )
    return replace(
        _network_settings(network.folder),
        poolings=poolings,
        layers=tuple(_LAYERS[layer.kind](layer.folder) for layer in layers),
        embedding_size=settings.truncate_dim,
        truncates=True,
        prompts=prompts,
        default_prompt=settings.default_prompt,
        include_prompt=include_prompt,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """What config_sentence_transformers.json says."""

    prompts: Mapping[str, str | None]
    default_prompt: str | None
    truncate_dim: int | None


def _settings(root: Path) -> _Settings:
    path = root / SETTINGS
    fields = _fields(path, optional=True)
    model_type = fields.get("model_type", "SentenceTransformer")
    if model_type != "SentenceTransformer":
        raise PlanError(f"{path} has the model_type {shown(model_type)}, expected SentenceTransformer.")
    prompts = fields.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise PlanError(f"{path} has the prompts {shown(prompts)}, expected an object of texts.")
    return _Settings(
        prompts=prompts,
        default_prompt=_value(fields, "default_prompt_name", str, path),
        truncate_dim=_size(fields, "truncate_dim", path),
    )


def _network_settings(folder: Path) -> SentencePlan:
    """Return a plan with the settings of the network in `folder`."""
    path = next((folder / name for name in NETWORK_SETTINGS if (folder / name).is_file()), folder / NETWORK_SETTINGS[0])
    fields = _fields(path, optional=True)
    _check_fields(fields, path, known={"max_seq_length", "do_lower_case", "unpad_inputs"}, fixed=_FIXED)
    return SentencePlan(
        max_length=_size(fields, "max_seq_length", path),
        lower_case=_value(fields, "do_lower_case", bool, path) or False,
    )


_FIXED: Final = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
"""The settings of the network that have one value that is supported."""


def _poolings(path: Path) -> tuple[tuple[str, ...], bool]:
    """Return the poolings that the file of a Pooling module names, and whether they include the tokens of a prompt."""
    fields = _fields(path)
    _check_fields(
        fields,
        path,
        known={"embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt", *_OLD_POOLINGS},
        fixed={},
    )
    old = [name for key, name in _OLD_POOLINGS.items() if _value(fields, key, bool, path)]
    given = fields.get("pooling_mode") or old or "mean"
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) and name in POOLINGS for name in names):
        raise PlanError(f"{path} has the pooling_mode {shown(given)}, expected any of {', '.join(POOLINGS)}.")
    return tuple(names), _value(fields, "include_prompt", bool, path) is not False


def _dense(folder: Path) -> DenseLayer:
    path = folder / MODULE_CONFIG
    fields = _fields(path)
    _check_fields(
        fields,
        path,
        known={"in_features", "out_features", "bias", "activation_function", "use_residual"},
        fixed={"module_input_name": _EMBEDDING, "module_output_name": _EMBEDDING},
    )
    activation = fields.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise PlanError(
            f"{path} has the activation_function {shown(activation)}, which is not supported: expected one of "
            f"{', '.join(ACTIVATIONS)}."
        )
    return DenseLayer(
        folder=folder,
        in_features=_needed_size(fields, "in_features", path),
        out_features=_needed_size(fields, "out_features", path),
        bias=_value(fields, "bias", bool, path) is not False,
        activation=ACTIVATIONS[activation],
        residual=_value(fields, "use_residual", bool, path) or False,
    )


def _normalize(folder: Path) -> NormalizeLayer:
    path = folder / MODULE_CONFIG
    _check_fields(
        _fields(path, optional=True),
        path,
        known=(),
        fixed={"module_input_name": _EMBEDDING, "module_output_name": _EMBEDDING},
    )
    return NormalizeLayer()


_NETWORK: Final = "Transformer"
_POOLING: Final = "Pooling"
_LAYERS: Final[dict[str, Callable[[Path], Layer]]] = {"Dense": _dense, "Normalize": _normalize}
"""The functions that read the modules that may follow the pooling from their folders, by the names of their classes."""


def _check_sizes(plan: SentencePlan, hidden_size: int, folder: Path) -> None:
    """Raise PlanError for a Dense module that takes vectors of another size than it is given."""
    size = hidden_size * len(plan.poolings)
    for layer in plan.layers:
        if isinstance(layer, DenseLayer):
            if layer.in_features != size:
                raise PlanError(
                    f"{layer.folder / MODULE_CONFIG} has in_features {layer.in_features}, but the vectors of "
                    f"{', '.join(plan.poolings)} pooling in {folder} have {size} values."
                )
            size = layer.out_features


def _json(path: Path) -> Any:
    try:
        return read_document(path, OTHER)
    except DocumentError as error:
        raise PlanError(f"{path} is not valid JSON ({error}). Correct it, or save the model again.") from error


def _fields(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Return the JSON object in the file `path`; an empty one for a file that is missing, if it is `optional`."""
    if optional and not path.is_file():
        return {}
    fields = _json(path)
    if not isinstance(fields, dict):
        raise PlanError(f"{path} is not a JSON object. Correct it, or save the model again.")
    return fields


def _check_fields(
    fields: Mapping[str, Any], path: Path, *, known: Collection[str], fixed: Mapping[str, object]
) -> None:
    """Raise PlanError for a field that is not known, and for one in `fixed` that has another value than there.

    A field that says nothing (null, or an empty object) does no harm.
    """
    for name, value in fields.items():
        if name in known or value in (None, {}) or fixed.get(name) == value:
            continue
        expected = f"expected {fixed[name]!r}" if name in fixed else "which is not supported"
        raise PlanError(f"{path} has {name} {shown(value)}, {expected}.")


def _size(fields: Mapping[str, Any], name: str, path: Path) -> int | None:
    """Return the field `name`, or None if it is left open. Raises PlanError unless it is a positive integer."""
    value: int | None = _value(fields, name, int, path)
    if value is not None and not 0 < value < 2**31:
        raise PlanError(f"{path} has {name} {shown(value)}, expected a positive integer.")
    return value


def _needed_size(fields: Mapping[str, Any], name: str, path: Path) -> int:
    """Return the field `name`. Raises PlanError unless it is a positive integer."""
    value = _size(fields, name, path)
    if value is None:
        raise PlanError(f"{path} has no {name}, expected a positive integer. Save the model again.")
    return value


def _value(fields: Mapping[str, Any], name: str, kind: type, path: Path) -> Any:
    """Return the field `name`, or None if it is left open. Raises PlanError unless it is a `kind`."""
    value = fields.get(name)
    if value is not None and type(value) is not kind:
        raise PlanError(f"{path} has {name} {shown(value)}, expected {_KINDS[kind]}.")
    return value


_KINDS: Final = {int: "a positive integer", bool: "true or false", str: "a text"}
