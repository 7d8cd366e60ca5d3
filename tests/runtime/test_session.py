import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from rpln_runtime import InputError, ManifestError, ProviderError, load, pipeline
from rpln_runtime.manifest import MANIFEST_NAME, read_manifest, write_manifest
from tests.runtime.bundles import (
    CORPUS,
    USABLE_LENGTH,
    Bundle,
    copy_bundle,
    keep_a_weight_in,
    leave_open_the_last_axis,
    outputs_in_fp16,
    stated_size,
)
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
    for threads in (0, 1025, 2**32 + 1):  # millions of threads would take hours to make
        with pytest.raises(InputError, match=rf"threads is {threads}.* 1 to 1024"):
            load(bundle.folder, threads=threads)
    for name in (MANIFEST_NAME, "model.onnx"):
        with pytest.raises(
            ManifestError, match=rf"{name} is a file: .* Name the folder that it is in: {bundle.folder}$"
        ):
            load(bundle.folder / name)
    with pytest.raises(InputError, match=r"folder is 'a\\x00b', expected a path, which holds no NUL"):
        load("a\0b")
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
    with pytest.raises(ManifestError, match=r"model\.onnx is no ONNX file"):
        load(folder)
    with pytest.raises(ManifestError, match=r"onnxruntime .*model\.onnx.*pip install .*--upgrade"):
        load(folder, verify=False)


def test_weights_outside_the_folder_are_not_read(bundle: Bundle, tmp_path: Path) -> None:
    folder = copy_bundle(bundle, tmp_path)
    keep_a_weight_in("../outside.data", folder, bundle.manifest)
    with pytest.raises(ManifestError, match=r"keeps weights in '\.\./outside\.data'.*[Dd]o not use"):
        load(folder)
    with pytest.raises(ManifestError, match="External data path escapes model directory"):
        load(folder, verify=False)


def test_weights_that_the_manifest_does_not_list_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    folder = copy_bundle(bundle, tmp_path)
    keep_a_weight_in("weights.data", folder, bundle.manifest)
    expected = load(bundle.folder).run(feeds(2, 7))["logits"]
    assert np.array_equal(load(folder).run(feeds(2, 7))["logits"], expected)
    write_manifest(folder, read_manifest(folder), without=["weights.data"])
    with pytest.raises(ManifestError, match=r"model\.onnx keeps weights in 'weights\.data'.* lists no file"):
        load(folder)


@pytest.mark.parametrize("count", [5, 7, 20_006])
def test_labels_that_are_not_as_many_as_logits_are_refused(bundle: Bundle, tmp_path: Path, count: int) -> None:
    labels = (*bundle.manifest.labels, *map(str, range(20_000)))[:count]
    folder = copy_bundle(bundle, tmp_path, labels=labels)
    with pytest.raises(ManifestError, match=rf"rpln\.json .*shape is .*, 6\], expected .* {count}\].*'logits'"):
        pipeline(folder)
    write_manifest(folder, stated_size(bundle.manifest, count, labels=labels))
    with pytest.raises(ManifestError, match=rf"model\.onnx has 'logits' .*, 6\], the manifest says .*, {count}\]"):
        pipeline(folder)


def test_sizes_that_a_graph_leaves_open_are_checked_when_it_runs(bundle: Bundle, tmp_path: Path) -> None:
    folder = copy_bundle(bundle, tmp_path)
    leave_open_the_last_axis(folder, labels=6)
    write_manifest(folder, bundle.manifest)
    assert load(folder).run(feeds(2, 7))["logits"].shape == (2, 7, 6)
    write_manifest(folder, stated_size(bundle.manifest, 5, labels=bundle.manifest.labels[:5]))
    with pytest.raises(ManifestError, match=r"model\.onnx gave 'logits' the shape \[2, 7, 6\], .* \[2, 7, 5\]"):
        load(folder).run(feeds(2, 7))


def test_other_masks_than_the_graph_counts_are_refused(bundle_of: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = bundle_of("fill-mask")
    folder = copy_bundle(bundle, tmp_path)
    model = onnx.load(folder / "model.onnx")
    for node in model.graph.node:
        node.output[:] = ["logits_before" if name == "logits" else name for name in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(4), "mask"))
    model.graph.node.extend(
        [
            onnx.helper.make_node("Equal", ["input_ids", "mask"], ["is_mask"]),
            onnx.helper.make_node("NonZero", ["is_mask"], ["found_masks"]),
            onnx.helper.make_node("Transpose", ["found_masks"], ["places_of_masks"]),
            onnx.helper.make_node("GatherND", ["logits_before", "places_of_masks"], ["logits"]),
        ]
    )
    shape = model.graph.output[0].type.tensor_type.shape
    shape.dim[0].dim_param = "masked_tokens"
    del shape.dim[1]
    onnx.save(model, folder / "model.onnx")
    (graph,) = bundle.manifest.graphs
    logits = dataclasses.replace(graph.outputs[0], shape=("masked_tokens", bundle.manifest.vocab_size))
    graph = dataclasses.replace(graph, outputs=(logits,))
    write_manifest(folder, dataclasses.replace(bundle.manifest, graphs=(graph,)))
    assert len(pipeline(folder)("Ada <mask> lived.")) == 5
    write_manifest(folder, dataclasses.replace(bundle.manifest, graphs=(graph,), mask_token_id=0))
    with pytest.raises(ManifestError, match=r"gave 'logits' the shape \[0, .* \[1, "):
        load(folder).run({"input_ids": np.array([[0, 9, 2]]), "attention_mask": np.ones((1, 3), np.int64)})


def test_a_graph_that_fails_is_one_of_our_errors(bundle: Bundle, tmp_path: Path) -> None:
    folder = copy_bundle(bundle, tmp_path)
    arrays = feeds(1, 3)
    arrays["input_ids"][0, 0] = 10_000
    (graph,) = bundle.manifest.graphs
    free = tuple(dataclasses.replace(spec, values=None) for spec in graph.inputs)
    write_manifest(folder, dataclasses.replace(bundle.manifest, graphs=(dataclasses.replace(graph, inputs=free),)))
    with pytest.raises(ProviderError, match=r"ONNX Runtime failed .* out of data bounds"):
        load(folder).run(arrays)


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
