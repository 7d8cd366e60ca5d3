"""rpln-runtime alone: in a clean environment, its wheel and a backend do everything except making bundles."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rpln_runtime import pipeline
from rpln_runtime.tasks import TASKS
from tests.runtime.bundles import CORPUS, make_tokenizer
from tests.runtime.comparison import assert_same
from tests.runtime.decoders import (
    decoder_plan,
    encoder_plan,
    make_causal_lm,
    make_decoder_bundle,
    make_encoder_decoder,
)
from tests.test_packaging import ROOT, Environment
from tests.triton.networks import make_toy_bundle

ABSENT = {"torch", "transformers", "onnx", "onnx-ir", "onnxscript", "rpln-export"}
UNUSED = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "click", "rich", "huggingface_hub", "ray"}
OPTIONS = {
    "feature-extraction": {"pooling": "mean"},
    "token-classification": {"aggregation_strategy": "simple"},
    "text-generation": {"max_new_tokens": 4},
    "text2text-generation": {"max_new_tokens": 4},
}
FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    **dict.fromkeys(TASKS, lambda text: {"text": text}),
    "fill-mask": lambda text: {"text": f"{text[:30]}<mask>."},
    "question-answering": lambda text: {"question": "Who?", "context": text},
    "multiple-choice": lambda text: {"prompt": text, "choices": ["Yes.", "No, it is Oslo."]},
}

# A script that prints for each task the pipeline's answers, those of a corpus, and the names of the models for Triton.
EVERYTHING = """
import json, sys
from pathlib import Path
import numpy as np
from rpln_runtime import pipeline
from rpln_runtime.corpus import run_corpus
from rpln_runtime.triton import write_repository

work = Path(sys.argv[1])
done = {}
for task, (items, options) in json.loads((work / "tasks.json").read_text()).items():
    answers = pipeline(work / task, **options)(items)
    run_corpus(work / task, work / f"{task}.jsonl", work / f"{task}.out", window=3, options=options)
    done[task] = answers, write_repository(work / task, work / f"{task}.triton", options=options)
modules = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps([done, modules], default=np.ndarray.tolist))
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a bundle for every task, named after the task, and texts for it, as items and as lines."""
    work = tmp_path_factory.mktemp("work")
    tasks = {}
    for task, row in TASKS.items():
        (work / task).mkdir()
        if row.postprocess:
            make_toy_bundle(work / task, task)
        lines = [FIELDS[task](text) for text in (*CORPUS, CORPUS[0][:20])]
        (work / f"{task}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        items = [line["text"] if list(line) == ["text"] else line for line in lines]
        tasks[task] = (items, OPTIONS.get(task, {}))
    (work / "tasks.json").write_text(json.dumps(tasks))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    make_decoders(work / "text-generation", work / "text2text-generation")
    torch.set_num_threads(threads)
    return work


def make_decoders(writer: Path, translator: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
        tokenizer = make_tokenizer(writer)
        model = make_causal_lm(len(tokenizer))
        make_decoder_bundle(writer, model, tokenizer, [decoder_plan(model, "with-past")])
        tokenizer = make_tokenizer(translator)
        model = make_encoder_decoder(len(tokenizer))
        make_decoder_bundle(translator, model, tokenizer, [decoder_plan(model, "with-past"), encoder_plan(model)])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return an environment with the runtime's wheel and ONNX Runtime."""
    folder = tmp_path_factory.mktemp("thin")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT / "runtime")], check=True)
    (wheel,) = folder.glob("*.whl")
    environment = Environment(folder / "environment")
    environment.install(f"{wheel}[cpu]")
    return environment


@pytest.mark.slow
def test_the_runtime_alone_answers_every_task_and_writes_for_triton(server: Environment, work: Path) -> None:
    assert server.distributions() & ABSENT == set()
    done = server.run("python", "-W", "error", "-c", EVERYTHING, str(work))
    assert (done.returncode, done.stderr) == (0, "")
    found, modules = json.loads(done.stdout)
    assert {"numpy", "onnxruntime", "tokenizers"} <= set(modules)
    assert UNUSED & set(modules) == set()
    assert set(found) == set(TASKS)
    for task, (items, options) in json.loads((work / "tasks.json").read_text()).items():
        answers, models = found[task]
        expected = as_json(pipeline(work / task, **options)(items))
        assert_same(answers, expected)
        assert_same([json.loads(line)["answer"] for line in (work / f"{task}.out").read_text().splitlines()], expected)
        assert models
        assert all((work / f"{task}.triton" / model / "config.pbtxt").stat().st_size for model in models)


def as_json(answers: Any) -> Any:
    return json.loads(json.dumps(answers, default=np.ndarray.tolist))


@pytest.mark.slow
def test_the_runtime_alone_has_its_commands(server: Environment, work: Path, tmp_path: Path) -> None:
    (task, options), text = ("text-classification", ["--option", "top_k=2"]), "Oslo is a capital."
    ran = server.run("python", "-m", "rpln_runtime", "run", str(work / task), text, *options)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert_same(json.loads(ran.stdout), [pipeline(work / task, top_k=2)(text)])

    (tmp_path / "in.jsonl").write_text(f'{{"id": 1, "text": "{text}"}}\n{{"id": 2}}\n')
    batch = ("-m", "rpln_runtime", "batch", str(work / task), "in.jsonl", "out.jsonl", *options)
    refused = server.run("python", *batch, cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (3, "")
    assert refused.stderr.startswith("Error: in.jsonl, line 2: it has no field 'text'.")
    recorded = server.run("python", *batch, "--on-error", "record", cwd=tmp_path)
    assert (recorded.stdout, recorded.stderr) == ("out.jsonl: 2 lines, 1 of them errors\n", "")
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert first == {"id": 1, "answer": json.loads(ran.stdout)[0]}
    assert second == {"id": 2, "error": "it has no field 'text'"}
    again = server.run("python", *batch, cwd=tmp_path)
    assert (again.returncode, again.stderr.startswith("Error: out.jsonl exists already")) == (9, True)


@pytest.mark.slow
def test_the_runtime_alone_writes_and_checks_for_triton_on_the_command_line(
    server: Environment, work: Path, tmp_path: Path
) -> None:
    command = ("python", "-W", "error", "-m", "rpln_runtime.triton")
    written = server.run(*command, str(work / "fill-mask"), "-o", "repository", cwd=tmp_path)
    assert (written.returncode, written.stderr) == (0, "")
    without = server.run(*command, "--check", "repository", cwd=tmp_path)
    assert without.returncode == 6
    assert 'pip install "rpln-runtime[triton]"' in without.stderr
    server.install("rpln-runtime[triton]")
    checked = server.run(*command, "--check", "repository", cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, "")
    (tmp_path / "repository" / "fill-mask" / "config.pbtxt").unlink()
    refused = server.run(*command, "--check", "repository", cwd=tmp_path)
    assert refused.returncode != 0
    assert "config.pbtxt" in refused.stderr


@pytest.mark.slow
def test_without_a_backend_the_command_to_install_one_is_named(server: Environment, work: Path) -> None:
    hidden = "import sys; sys.modules['onnxruntime'] = None; from rpln_runtime.__main__ import main; sys.exit(main())"
    refused = server.run("python", "-c", hidden, "run", str(work / "fill-mask"), "<mask>")
    assert refused.returncode == 6
    assert 'pip install "rpln-runtime[cpu]"' in refused.stderr
