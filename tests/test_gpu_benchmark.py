"""The benchmark for a lent GPU: its weights, its pieces, its results and its page. A rehearsal runs all of it."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu.answers import PROMPTS, generated, torch_model
from benchmarks.gpu.bundles import DECODERS, bundle_named
from benchmarks.gpu.device import DEVICES
from benchmarks.gpu.networks import NETWORKS, hankel_model, small, weight
from benchmarks.gpu.page import page_from_results
from benchmarks.gpu.pieces import LIST, pack, unpack
from benchmarks.gpu.results import FILE, Results
from benchmarks.gpu.run import run_process
from tests.embedded import embedded_bundle


def test_weights_are_the_same_everywhere() -> None:
    """The graphs are made on one machine, and torch's model on another."""
    matrix = weight("encoder.layer.0.output.dense.weight", (4, 6))
    assert hashlib.sha256(matrix.tobytes()).hexdigest()[:12] == "aa70c3a39c67"
    assert np.array_equal(matrix[0, 1:], matrix[1, :-1])
    assert abs(float(weight("a.LayerNorm.weight", (1000,)).mean()) - 1) < 0.01
    assert not np.array_equal(weight("a", (9,)), weight("b", (9,)))


def test_a_network_has_no_weight_left_unset() -> None:
    for network in NETWORKS.values():
        state = hankel_model(small(network)).state_dict()
        assert all(bool(value.isfinite().all()) for value in state.values())
        names = {name for name in state if not name.endswith(("position_ids", "token_type_ids"))}
        assert all(float(state[name].float().std()) > 0 for name in names)


def test_pieces_become_the_files_that_they_were(tmp_path: Path) -> None:
    content, pieces, found = tmp_path / "content", tmp_path / "pieces", tmp_path / "found"
    (content / "bundles").mkdir(parents=True)
    pieces.mkdir()
    files = {"bundles/one": np.random.default_rng(0).bytes(5000), "two": b"", "three": b"3" * 10_000}
    for name, data in files.items():
        (content / name).write_bytes(data)
    written = pack(content, pieces, most_bytes=2000)
    assert len(written) > 2
    assert max(path.stat().st_size for path in written) <= 2000
    unpack(pieces, found)
    assert {str(path.relative_to(found)): path.read_bytes() for path in found.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_piece_that_did_not_arrive_is_named(tmp_path: Path, damage: str) -> None:
    content, pieces = tmp_path / "content", tmp_path / "pieces"
    content.mkdir()
    pieces.mkdir()
    (content / "file").write_bytes(np.random.default_rng(0).bytes(5000))
    *_, last = pack(content, pieces, most_bytes=2000)
    if damage == "missing":
        last.unlink()
    else:
        last.write_bytes(last.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=last.name):
        unpack(pieces, tmp_path / "found")
    assert len(json.loads((pieces / LIST).read_text())) == 3


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_run_that_was_cut_has_a_page(tmp_path: Path, device: str) -> None:
    results = Results(tmp_path)
    results.add("machine", {"device": device, "processor": "some", "versions": {"torch": "1"}})
    results.add("answer", {"bundle": "a", "difference": 0.5, "allowed": 0.02, "equal": False})
    for name, speed in (("torch.compile fp16", 2.0), ("ours, fused", 5.0)):
        fact = {"milliseconds": 1.0, "speed": speed, "low": speed, "high": speed, "difference": 0.0}
        results.add("speed", {"case": "b1 s128", "contender": name, **fact})
    results.add("step", {"name": "encoders", "seconds": 9, "exit_code": None, "words": "its time was over"})
    with (tmp_path / FILE).open("a") as stream:
        stream.write('{"kind": "answer", "bund')
    page = page_from_results(results)
    assert ("Rehearsed, not run" in page) == (device == "cpu")
    assert "1 batches were compared with eager torch in fp32 on this device; 1 differ too much." in page
    goals = (
        "b1 s128: ours, fused is 2.50 times as fast as torch.compile fp16; asked for 1.5: reached",
        "decoding b1: not measured; asked for 3 times torch fp16",
    )
    assert all((goal in page) == (device == "cuda") for goal in goals)
    assert "encoders: 9 s, ended: `its time was over`" in page


def test_a_step_ends_with_what_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []

    def interrupted(self: subprocess.Popen[str], **_: object) -> None:
        started.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_process([sys.executable, "-c", "import time; time.sleep(600)"], os.environ, seconds=60)
    assert started[0].wait(10) == -signal.SIGKILL


@pytest.mark.parametrize("task", DECODERS)
def test_decoders_in_fp32_write_what_torch_writes(tmp_path_factory: pytest.TempPathFactory, task: str) -> None:
    """The comparison itself is tested: it has to ask torch and the bundle for the same."""
    device = DEVICES["cpu"]
    row = bundle_named(f"{task}-fp32-standard")
    folder = tmp_path_factory.mktemp("bundles")
    shutil.copytree(embedded_bundle(tmp_path_factory, task), folder / row.name)
    facts = list(generated(row, folder, torch_model(task, device), device))
    assert [fact["equal"] for fact in facts] == [True] * len(PROMPTS)


def test_a_step_that_hangs_ends_with_what_it_started() -> None:
    """A process that it has started holds stderr open, too."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    assert run_process([sys.executable, "-c", code], os.environ, seconds=2) == (None, "its time was over")
    assert run_process([sys.executable, "-c", "raise SystemExit('words')"], os.environ, seconds=60) == (1, "words\n")
