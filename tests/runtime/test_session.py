import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from rpln_runtime import InputError, ManifestError, ProviderError, load, pipeline
from rpln_runtime.manifest import read_manifest, write_manifest
from tests.runtime.bundles import CORPUS, USABLE_LENGTH, Bundle, copy_bundle, outputs_in_fp16
from tests.runtime.comparison import TOLERANCE

TASK = "token-classification"


@pytest.fixture(scope="module")
def bundle(bundle_of: Callable[..., Bundle]) -> Bundle:
    return bundle_of(TASK)


def feeds(batch: int, sequence: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    mask = generator.integers(0, 2, (batch, sequence))
    mask[:, 0] = 1
    return {"input_ids": generator.integers(2, 300, (batch, sequence)), "attention_mask": mask}


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (3, USABLE_LENGTH)], ids=str)
def test_runs_as_torch_does(bundle: Bundle, shape: tuple[int, int]) -> None:
    arrays = feeds(*shape)
    logits = load(bundle.folder).run(arrays)["logits"]
    with torch.no_grad():
        expected = bundle.model(**{name: torch.from_numpy(array) for name, array in arrays.items()}).logits.numpy()
    real = arrays["attention_mask"] == 1
    assert logits.dtype == np.float32
    assert np.abs(logits - expected)[real].max() <= TOLERANCE


def test_memory_order_does_not_matter(bundle: Bundle) -> None:
    session, arrays = load(bundle.folder), feeds(3, 8)
    strided = {name: np.repeat(array, 2, axis=1)[:, ::2] for name, array in arrays.items()}
    assert not strided["input_ids"].flags.c_contiguous
    assert np.array_equal(session.run(strided)["logits"], session.run(arrays)["logits"])


def test_results_outlive_later_runs_and_the_session(bundle: Bundle) -> None:
    session = load(bundle.folder)
    logits = session.run(feeds(4, 32))["logits"]
    kept = logits.copy()
    for length in (1, 32, 64):
        session.run(feeds(4, length))
    del session
    assert np.array_equal(logits, kept)


def test_threads_may_share_a_session(bundle: Bundle) -> None:
    session = load(bundle.folder, threads=1)
    lengths = list(range(1, 33))
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda length: session.run(feeds(2, length))["logits"], lengths))
    for length, logits in zip(lengths, together, strict=True):
        assert np.array_equal(logits, session.run(feeds(2, length))["logits"])


def test_outputs_can_be_chosen(bundle_of: Callable[..., Bundle]) -> None:
    session = load(bundle_of("question-answering").folder)
    both = session.run(feeds(2, 5))
    assert list(both) == ["start_logits", "end_logits"]
    end = session.run(feeds(2, 5), outputs=["end_logits"])
    assert list(end) == ["end_logits"]
    assert np.array_equal(end["end_logits"], both["end_logits"])
    with pytest.raises(InputError, match=r"'logits'.*start_logits, end_logits"):
        session.run(feeds(2, 5), outputs=["logits"])


def test_inputs_are_checked_before_the_graph_runs(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"65 .*'sequence'.* 1 to 64"):
        load(bundle.folder).run(feeds(1, USABLE_LENGTH + 1))


def test_fp16_outputs_are_given_and_read(bundle: Bundle, tmp_path: Path) -> None:
    folder = outputs_in_fp16(bundle, tmp_path)
    logits = load(folder).run(feeds(2, 9))["logits"]
    assert logits.dtype == np.float16
    expected = load(bundle.folder).run(feeds(2, 9))["logits"]
    assert np.array_equal(logits, expected.astype(np.float16))
    entities = pipeline(folder, ignore_labels=[])(CORPUS[0])
    assert {type(entity["score"]) for entity in entities} == {float}
    for half, single in zip(entities, pipeline(bundle.folder, ignore_labels=[])(CORPUS[0]), strict=True):
        assert half["entity"] == single["entity"]
        assert abs(half["score"] - single["score"]) < 1e-2


def test_says_what_it_runs(bundle: Bundle) -> None:
    session = load(str(bundle.folder))
    assert session.provider == "cpu"
    assert session.manifest == read_manifest(bundle.folder)
    assert session.graph == session.manifest.graphs[0]
    assert [node.name for node in session.onnx_session.get_outputs()] == [spec.name for spec in session.graph.outputs]


def test_the_first_graph_runs_unless_another_is_named(bundle: Bundle, tmp_path: Path) -> None:
    (graph,) = bundle.manifest.graphs
    graphs = (dataclasses.replace(graph, variant="prefill"), dataclasses.replace(graph, variant="decode"))
    folder = copy_bundle(bundle, tmp_path, graphs=graphs)
    assert load(folder).graph == graphs[0]
    assert load(folder, variant="decode").graph == graphs[1]


def test_wrong_arguments_are_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"threads is 0.* 1 or more"):
        load(bundle.folder, threads=0)
    with pytest.raises(ManifestError, match=r"'decode'.* full"):
        load(bundle.folder, variant="decode")


def test_a_graph_that_is_not_the_manifests_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    folder = copy_bundle(bundle, tmp_path)
    model = onnx.load(folder / "model.onnx")
    for node in model.graph.node:
        node.output[:] = ["other" if name == "logits" else name for name in node.output]
    model.graph.output[0].name = "other"
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(ManifestError, match=r"SHA-256|bytes"):
        load(folder)
    write_manifest(folder, bundle.manifest)
    with pytest.raises(ManifestError, match=r"outputs \{'other': 'float32'\}.* \{'logits'"):
        load(folder)


def test_a_file_that_is_no_graph_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    folder = copy_bundle(bundle, tmp_path)
    (folder / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ManifestError, match=r"model\.onnx has 11 bytes"):
        load(folder)
    write_manifest(folder, bundle.manifest)
    with pytest.raises(ManifestError, match=r"onnxruntime .*model\.onnx.*pip install .*--upgrade"):
        load(folder)


def test_weights_outside_the_folder_are_not_read(bundle: Bundle, tmp_path: Path) -> None:
    folder = copy_bundle(bundle, tmp_path)
    model = onnx.load(folder / "model.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.raw_data) > 1000)
    (tmp_path / "outside.data").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../outside.data")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    write_manifest(folder, bundle.manifest)
    with pytest.raises(ManifestError, match="External data path escapes model directory"):
        load(folder)


def test_verification_can_be_left_out(bundle: Bundle, tmp_path: Path) -> None:
    folder = copy_bundle(bundle, tmp_path)
    config = folder / "tokenizer_config.json"
    config.write_bytes(config.read_bytes().replace(b"64", b"65"))
    with pytest.raises(ManifestError, match="SHA-256"):
        load(folder)
    assert load(folder, verify=False).run(feeds(1, 2)).keys() == {"logits"}


def test_bf16_on_the_cpu_is_refused_by_its_reason(tmp_path: Path, bundle: Bundle) -> None:
    folder = copy_bundle(bundle, tmp_path)
    write_manifest(folder, dataclasses.replace(read_manifest(folder), precision="bfloat16"))

    with pytest.raises(ProviderError, match=r"bf16.* CPU .*'cuda'.* fp32"):
        load(folder)
