"""Whatever a reader is given, it returns a value or raises one of our errors; `make fuzz-readers` tries 100,000 inputs.

Each reader gets documents that are nearly valid. An input that ends in another exception is made small by hypothesis,
which keeps it and tries it first in the next run; what it shows becomes a test beside the reader's others.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from transformers import RobertaPreLayerNormConfig

from rpln_export.checkpoint.adapter import merge_adapter
from rpln_export.checkpoint.model import load_model
from rpln_export.checkpoint.sentences import sentence_encoder_from_plan
from rpln_export.checkpoint.tokenizer import load_tokenizer
from rpln_export.errors import PlanError
from rpln_export.plan.adapter import adapter_from_source
from rpln_export.plan.defaults import DEFAULTS
from rpln_export.plan.export_plan import make_plan
from rpln_export.plan.generation import generation_from_checkpoint
from rpln_export.plan.generation_config import read_generation_config, unsupported_fields
from rpln_export.plan.sentences import network_folder, sentences_from_choice
from rpln_export.plan.workloads import workload_from_file
from rpln_model.checkpoints import read_config
from rpln_model.composition import load_composition
from rpln_model.errors import CheckpointError
from rpln_model.fairseq_file import read_fairseq
from rpln_model.weights import read_weights, weight_files
from rpln_runtime import generator, pipeline
from rpln_runtime.corpus.output import OutputError, open_output
from rpln_runtime.corpus.records import answer_lines
from rpln_runtime.engines.manifest import EngineManifest, Range, read_engine
from rpln_runtime.errors import InputError, ManifestError, RplnError
from rpln_runtime.external_data import NotOnnxError, external_files
from rpln_runtime.manifest import BundleFile, read_manifest
from rpln_runtime.postprocess.base import TEXT_FIELD
from rpln_runtime.tasks import TASKS
from rpln_runtime.tokenization import Tokenizer
from rpln_runtime.triton.request import options_from_text
from tests.readers.manifests import manifest_with_all_fields
from tests.readers.mutations import changed_bytes, documents

EXAMPLES: Final = int(os.environ.get("RPLN_FUZZ_EXAMPLES", "100"))
"""How many inputs each reader gets."""
BUNDLES: Final = Path(__file__).parents[1] / "data/bundles-0.1.0"
TAGGER: Final = BUNDLES / "token-classification"
WRITER: Final = BUNDLES / "text-generation"
CHECKPOINT: Final = BUNDLES.with_name("checkpoints-5x") / "token-classification"
DECODER: Final = DEFAULTS["text-generation"].folder


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A reader to try.

    Attributes:
        inputs: makes the strategy that inputs are drawn from.
        read: reads an input, in a folder that all inputs of the reader share and that begins as a copy of `source`.
        refusals: the errors that it may raise.
        source: a folder that the reader finds files in beside its input; None for an empty one.
    """

    inputs: Callable[[], st.SearchStrategy[bytes]]
    read: Callable[[bytes, Path], object]
    refusals: type[Exception] | tuple[type[Exception], ...]
    source: Path | None = None


class NoRefusal(Exception):  # noqa: N818 - it is none that is raised
    """The error of a reader that never raises one."""


def json_of(path: Path) -> Callable[[], st.SearchStrategy[bytes]]:
    """Return a function that makes a strategy of the JSON file `path` with changes."""
    return lambda: documents(json.loads(path.read_text(encoding="utf-8")))


def manifests(bundle: Path) -> Callable[[], st.SearchStrategy[bytes]]:
    """Return a function that makes a strategy of the manifest of `bundle`, with all optional fields and changes."""
    return lambda: documents(manifest_with_all_fields(bundle))


def read_bundle(content: bytes, folder: Path) -> object:
    """Open a bundle with a changed manifest, and ask it, as far as it takes that."""
    (folder / "rpln.json").write_bytes(content)
    return pipeline(folder, verify=False)("The dog barked.")


def read_decoder(content: bytes, folder: Path) -> object:
    """Open a decoder's bundle with a changed manifest, and let it go on with a text for a few tokens."""
    (folder / "rpln.json").write_bytes(content)
    return generator(folder, verify=False)("The dog", max_new_tokens=3)


def read_manifest_of(content: bytes, folder: Path) -> object:
    (folder / "rpln.json").write_bytes(content)
    return read_manifest(folder)


def read_tokenizer(content: bytes, folder: Path) -> object:
    (folder / "tokenizer.json").write_bytes(content)
    tokenizer = Tokenizer.from_bundle(folder, MANIFEST)
    return tokenizer.decode(tokenizer.encode("The <mask> dög's  bark.", "And a <s>pair.").ids.tolist())


def read_checkpoint_tokenizer(content: bytes, folder: Path) -> object:
    (folder / "tokenizer.json").write_bytes(content)
    return load_tokenizer(str(folder), revision=None, vocab_size=10**6)


def read_tokenizer_config(content: bytes, folder: Path) -> object:
    (folder / "tokenizer_config.json").write_bytes(content)
    return load_tokenizer(str(folder), revision=None, vocab_size=10**6)


def read_adapter(content: bytes, folder: Path) -> object:
    (folder / "adapter_config.json").write_bytes(content)
    return adapter_from_source(str(folder), revision=None)


def read_and_merge_adapter(content: bytes, folder: Path) -> object:
    """Merge an adapter with a changed description into the small network beside it."""
    (folder / "adapter_config.json").write_bytes(content)
    (folder / "adapter_model.safetensors").write_bytes(save(ADAPTER_WEIGHTS))
    adapter = adapter_from_source(str(folder), revision=None)
    return merge_adapter(load_model(PLAN)[0], adapter, PLAN) if adapter else None


def read_sentence_file(name: str) -> Callable[[bytes, Path], object]:
    """Return a reader of a folder of sentence-transformers in which the file `name` is changed."""

    def read(content: bytes, folder: Path) -> object:
        for other, document in SENTENCES.items():
            (folder / other).parent.mkdir(exist_ok=True)
            (folder / other).write_text(json.dumps(document), encoding="utf-8")
        (folder / name).write_bytes(content)
        (folder / "2_Dense" / "model.safetensors").write_bytes(save(DENSE_WEIGHTS))
        network_folder(folder)
        task = TASKS["feature-extraction"]
        plan = sentences_from_choice([], task, PLAN.config, folder)
        return plan and sentence_encoder_from_plan(NETWORK, plan)

    return read


def read_engine_of(content: bytes, folder: Path) -> object:
    (folder / "engine.json").write_bytes(content)
    return read_engine(folder / "engine.json")


def read_onnx(content: bytes, folder: Path) -> object:
    (folder / "model.onnx").write_bytes(content)
    return external_files(folder / "model.onnx")


RUN: Final = {"bundle": "a", "window": 3}
ROW: Final = {"lines": 3, "errors": 0, "read": 9, "sha256": "a", "written": 0, "written_sha256": "b"}


def journals() -> st.SearchStrategy[bytes]:
    rows = st.tuples(st.just(json.dumps(RUN).encode()) | documents(RUN), documents(ROW))
    whole = rows.map(lambda pair: b"rpln-runtime corpus, journal 2\n" + b"\n".join([*pair, b""]))
    return whole | whole.flatmap(changed_bytes)


def read_journal(content: bytes, folder: Path) -> object:
    (folder / "out.journal").write_bytes(content)
    (folder / "out.part").write_bytes(b"")
    with open_output(folder / "out", RUN) as output:
        return output.progress


def read_line(content: bytes, _folder: Path) -> object:
    return list(answer_lines([content], lambda items: [len(item) for item in items], [TEXT_FIELD]))


def read_config_of(content: bytes, folder: Path) -> object:
    (folder / "config.json").write_bytes(content)
    return read_config(folder, RobertaPreLayerNormConfig)


def read_generating(content: bytes, folder: Path) -> object:
    (folder / "generation_config.json").write_bytes(content)
    return generating_of(folder)


def read_generating_of_config(content: bytes, folder: Path) -> object:
    (folder / "config.json").write_bytes(content)
    return generating_of(folder)


def generating_of(folder: Path) -> object:
    stated = read_generation_config(folder)
    unsupported_fields(stated.fields)
    return generation_from_checkpoint(str(folder), COMPOSITION, TASKS["text-generation"], stated)


def read_index(content: bytes, folder: Path) -> object:
    (folder / "model.safetensors.index.json").write_bytes(content)
    return weight_files(folder)


def read_safetensors(content: bytes, folder: Path) -> object:
    (folder / "model.safetensors").write_bytes(content)
    return read_weights(folder)


def read_bin(content: bytes, folder: Path) -> object:
    (folder / "pytorch_model.bin").write_bytes(content)
    return read_weights(folder)


def read_fairseq_of(content: bytes, folder: Path) -> object:
    (folder / "checkpoint.pt").write_bytes(content)
    return read_fairseq(folder / "checkpoint.pt")


def read_workload(content: bytes, folder: Path) -> object:
    (folder / "workload.json").write_bytes(content)
    return workload_from_file(folder / "workload.json")


def pickled(content: Any, folder: Path) -> bytes:
    torch.save(content, folder / "pickle")
    return (folder / "pickle").read_bytes()


MANIFEST: Final = read_manifest(TAGGER)
COMPOSITION: Final = load_composition(str(DECODER))
STATES: Final = {"a.weight": torch.ones(2, 3), "b.bias": torch.zeros(2)}
ENGINE: Final = EngineManifest(
    builder="tensorrt",
    version="10",
    targets=("sm89",),
    hardware_compatible=False,
    version_compatible=False,
    stripped=False,
    variant="full",
    precision="float32",
    graph=(BundleFile(path="model.onnx", size=1, sha256="a"),),
    plan=BundleFile(path="engines/a.plan", size=1, sha256="a"),
    profiles=({"batch": Range(minimum=1, optimum=1, maximum=8)},),
    weights=1,
    activations=(1,),
    workspace=None,
    attentions=(0,),
    layers=(),
    seconds=1.5,
    timing_cache=None,
)

PLAN: Final = make_plan(str(CHECKPOINT))
NETWORK: Final = load_model(make_plan(str(CHECKPOINT.with_name("feature-extraction"))))[0]
ADAPTER: Final = {
    "alpha_pattern": {"query": 4},
    "base_model_name_or_path": "base",
    "bias": "none",
    "init_lora_weights": True,
    "layers_to_transform": None,
    "lora_alpha": 8,
    "modules_to_save": [],
    "peft_type": "LORA",
    "r": 2,
    "rank_pattern": {"query": 2},
    "revision": None,
    "target_modules": ["query"],
    "task_type": "TOKEN_CLS",
    "use_dora": False,
    "use_rslora": True,
}
QUERY: Final = "base_model.model.roberta_prelayernorm.encoder.layer.0.attention.self.query"
ADAPTER_WEIGHTS: Final = {f"{QUERY}.lora_A.weight": torch.ones(2, 8), f"{QUERY}.lora_B.weight": torch.ones(8, 2)}
TYPES: Final = "sentence_transformers.models."
SENTENCES: Final[dict[str, Any]] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": f"{TYPES}Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{TYPES}Pooling"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": f"{TYPES}Dense"},
        {"idx": 3, "name": "3", "path": "3_Normalize", "type": f"{TYPES}Normalize"},
    ],
    "config_sentence_transformers.json": {
        "model_type": "SentenceTransformer",
        "prompts": {"query": "Query: ", "document": ""},
        "default_prompt_name": "query",
        "truncate_dim": 3,
        "similarity_fn_name": "cosine",
    },
    "sentence_bert_config.json": {"max_seq_length": 16, "do_lower_case": True},
    "1_Pooling/config.json": {"embedding_dimension": 8, "pooling_mode": ["mean", "max"], "include_prompt": True},
    "2_Dense/config.json": {
        "in_features": 16,
        "out_features": 4,
        "bias": False,
        "activation_function": "torch.nn.modules.activation.Tanh",
        "module_input_name": "sentence_embedding",
    },
    "3_Normalize/config.json": {"module_output_name": "sentence_embedding"},
}
DENSE_WEIGHTS: Final = {"linear.weight": torch.ones(4, 16)}

READERS: Final = {
    "manifest": Reader(inputs=manifests(TAGGER), read=read_manifest_of, refusals=ManifestError, source=TAGGER),
    "manifest of a decoder": Reader(
        inputs=manifests(WRITER), read=read_manifest_of, refusals=ManifestError, source=WRITER
    ),
    "bundle": Reader(inputs=manifests(TAGGER), read=read_bundle, refusals=RplnError, source=TAGGER),
    "bundle of a decoder": Reader(inputs=manifests(WRITER), read=read_decoder, refusals=RplnError, source=WRITER),
    "engine": Reader(inputs=lambda: documents(dataclasses.asdict(ENGINE)), read=read_engine_of, refusals=ManifestError),
    "tokenizer": Reader(
        inputs=json_of(TAGGER / "tokenizer.json"), read=read_tokenizer, refusals=ManifestError, source=TAGGER
    ),
    "checkpoint's tokenizer": Reader(
        inputs=json_of(TAGGER / "tokenizer.json"), read=read_checkpoint_tokenizer, refusals=PlanError
    ),
    "tokenizer_config.json": Reader(
        inputs=json_of(TAGGER / "tokenizer_config.json"),
        read=read_tokenizer_config,
        refusals=PlanError,
        source=BUNDLES.with_name("checkpoints-5x") / "tokenizer",
    ),
    "adapter_config.json": Reader(
        inputs=lambda: documents(ADAPTER), read=read_adapter, refusals=(PlanError, CheckpointError)
    ),
    "adapter_config.json beside a network": Reader(
        inputs=lambda: documents(ADAPTER),
        read=read_and_merge_adapter,
        refusals=(PlanError, CheckpointError),
        source=CHECKPOINT,
    ),
    "onnx": Reader(
        inputs=lambda: changed_bytes((TAGGER / "model.onnx").read_bytes()[-3000:]) | st.binary(max_size=200),
        read=read_onnx,
        refusals=NotOnnxError,
    ),
    "journal": Reader(inputs=journals, read=read_journal, refusals=OutputError),
    "line of a corpus": Reader(
        inputs=lambda: documents({"id": 7, "text": "The dog barked.", "more": [{"a": 1}]}),
        read=read_line,
        refusals=NoRefusal,
    ),
    "options of a request": Reader(
        inputs=lambda: documents({"top_k": 3, "labels": ["a"]}),
        read=lambda content, _folder: options_from_text(content),
        refusals=InputError,
    ),
    "config.json": Reader(inputs=json_of(DECODER / "config.json"), read=read_config_of, refusals=CheckpointError),
    "generation_config.json": Reader(
        inputs=json_of(DECODER / "generation_config.json"), read=read_generating, refusals=(PlanError, CheckpointError)
    ),
    "config.json that says how to generate": Reader(
        inputs=lambda: documents({"num_beams": 3, "max_length": 9, "decoder": {"bad_words_ids": [[5]], "top_k": 4}}),
        read=read_generating_of_config,
        refusals=(PlanError, CheckpointError),
    ),
    "index of weights": Reader(
        inputs=lambda: documents({"metadata": {"total_size": 9}, "weight_map": {"a": "b.safetensors", "c": "c"}}),
        read=read_index,
        refusals=CheckpointError,
    ),
    "safetensors": Reader(inputs=lambda: changed_bytes(save(STATES)), read=read_safetensors, refusals=CheckpointError),
    "workload": Reader(inputs=lambda: documents([[12, 40], [33, 7]]), read=read_workload, refusals=PlanError),
} | {
    f"{name} of sentence-transformers": Reader(
        inputs=partial(documents, SENTENCES[name]),
        read=read_sentence_file(name),
        refusals=(PlanError, CheckpointError),
    )
    for name in SENTENCES
}
PICKLES: Final[dict[str, tuple[Any, Callable[[bytes, Path], object]]]] = {
    "pytorch_model.bin": (STATES, read_bin),
    "fairseq": ({"model": STATES, "args": argparse.Namespace(arch="a"), "cfg": {"model": {"b": 1}}}, read_fairseq_of),
}


@pytest.mark.full
@pytest.mark.parametrize("name", READERS)
def test_a_reader_returns_a_value_or_raises_one_of_our_errors(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    try_reader(reader.inputs(), reader, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("name", PICKLES)
def test_a_reader_of_pickles_returns_a_value_or_raises_one_of_our_errors(name: str, tmp_path: Path) -> None:
    content, read = PICKLES[name]
    reader = Reader(inputs=st.binary, read=read, refusals=CheckpointError)
    try_reader(changed_bytes(pickled(content, tmp_path)), reader, tmp_path / "own")


def try_reader(inputs: st.SearchStrategy[bytes], reader: Reader, folder: Path) -> None:
    """Give the reader as many inputs as EXAMPLES says."""
    folder = folder / "reader"
    if reader.source:
        shutil.copytree(reader.source, folder)
    else:
        folder.mkdir(parents=True)
    tried = 0

    @settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True, database=None
    )
    @given(inputs)
    def try_one(content: bytes) -> None:
        nonlocal tried
        tried += 1
        with contextlib.suppress(*(reader.refusals if isinstance(reader.refusals, tuple) else (reader.refusals,))):
            reader.read(content, folder)

    try_one()
    assert tried >= EXAMPLES
