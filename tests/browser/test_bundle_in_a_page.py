"""The example page: bundles run in headless Chromium by onnxruntime-web, and answer as pipeline() does in Python."""

import functools
import http.server
import itertools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import tokenizers
from playwright.sync_api import Page, expect

from rpln_export.plan.defaults import DEFAULTS
from rpln_runtime import pipeline
from tests.browser.accessibility import violations
from tests.cpp.texts import random_texts
from tests.embedded import embedded_bundle

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "examples" / "browser"
OLDER_BUNDLES = EXAMPLE.parent.parent / "tests" / "data" / "bundles-0.1.0"

TEXTS: Final = {
    "token-classification": [
        {"text": "The old man walked to the boat, and his crew watched the stars."},
        {"text": "  Zoe\u0301's   café 👩‍👩‍👧‍👦 sold 1,000 books\tin 1961; wasn't it\u00a0closed?  "},
        {"text": "."},
    ],
    "text-classification": [
        {"text": "Free money!!! Click here to win 1,000,000 dollars."},
        {"text": "The meeting is on Thursday. 🗓️ Bring the minutes."},
    ],
    "fill-mask": [
        {"text": "The <mask> was closed for the day."},
        {"text": "He went to   <mask> and came <mask>."},
    ],
    "question-answering": [
        {
            "question": "Who praised the officers?",
            "context": "In Fulton's café 👮 the jury praised the officers of the city, and the Mayor praised the jury.",
        }
    ],
}
OPTIONS: Final[dict[str, list[dict[str, Any]]]] = {
    "token-classification": [
        {"aggregation_strategy": strategy} for strategy in ("none", "simple", "first", "average", "max")
    ],
    "question-answering": [{"top_k": 10}],
}

FP32_DIFFERENCE = 1e-5
"""The most that scores may differ: sums are computed in another order."""
LOWER_DIFFERENCE = 1e-2
"""The same for fp16 and int8, where a value that is near the middle may be rounded to either side."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Serve the example with onnxruntime-web from a folder, and return its address and the folder."""
    install_runtime()
    folder = tmp_path_factory.mktemp("site")
    for file in EXAMPLE.iterdir():
        (folder / file.name).symlink_to(file)
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def install_runtime() -> None:
    """Fetch onnxruntime-web into the clone as the documentation says, unless it is there in the version of the lock."""
    lock, installed = EXAMPLE / "package-lock.json", EXAMPLE / "node_modules" / ".package-lock.json"
    wanted = json.loads(lock.read_text())["packages"]["node_modules/onnxruntime-web"]["version"]
    if installed.exists() and f'"{wanted}"' in installed.read_text():
        return
    npm = shutil.which("npm")
    if npm is None:
        reason = "no npm, which fetches onnxruntime-web: .ci/install-tools installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=EXAMPLE, check=True, capture_output=True)


def put_beside(folder: Path, bundle: Path, name: str) -> None:
    """Put a bundle into the folder of the page."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(bundle)


@pytest.fixture
def ask(page: Page, site: tuple[str, Path]) -> Callable[..., Any]:
    """Return a function that gives a bundle's answers in the page: to a list of items, with each of the options."""
    address, folder = site

    def answers(bundle: Path, items: list[dict[str, str]], options: list[dict[str, Any]]) -> Any:
        put_beside(folder, bundle, bundle.name)
        page.goto(address)
        return page.evaluate(
            """async ([folder, items, options]) => {
                const { openPipeline } = await import("./pipeline.js");
                const pipeline = await openPipeline(folder);
                const answers = [];
                for (const one of options) for (const item of items) answers.push(await pipeline.answer(item, one));
                return answers;
            }""",
            [bundle.name, items, options],
        )

    return answers


@pytest.mark.parametrize(
    ("task", "choices", "difference"),
    [
        ("token-classification", {}, FP32_DIFFERENCE),
        ("text-classification", {}, FP32_DIFFERENCE),
        ("fill-mask", {}, FP32_DIFFERENCE),
        ("question-answering", {}, FP32_DIFFERENCE),
        ("token-classification", {"precision": "fp16"}, LOWER_DIFFERENCE),
        ("token-classification", {"precision": "int8-dynamic"}, LOWER_DIFFERENCE),
        ("text-classification", {"precision": "int8-static"}, LOWER_DIFFERENCE),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else None,
)
def test_answers_are_those_of_python(
    ask: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    task: str,
    choices: dict[str, str],
    difference: float,
) -> None:
    check_answers(ask, embedded_bundle(tmp_path_factory, task, **choices), task, TEXTS[task], difference)


def test_weights_beside_the_graph_are_read(ask: Callable[..., Any]) -> None:
    bundle = OLDER_BUNDLES / "token-classification"
    assert (bundle / "model.onnx.data").exists()
    check_answers(ask, bundle, "token-classification", [{"text": "The dog barked in London."}], FP32_DIFFERENCE)


def check_answers(
    ask: Callable[..., Any], bundle: Path, task: str, items: list[dict[str, str]], difference: float
) -> None:
    options = OPTIONS.get(task, [{}])
    in_python = {"top_k": None} if task == "text-classification" else {}
    run = pipeline(bundle)
    found = ask(bundle, items, options)
    for (one, item), answer in zip(itertools.product(options, items), found, strict=True):
        expected = run(item if len(item) > 1 else item["text"], **one, **in_python)
        offsets_as_in_javascript(expected, item)
        assert_same(answer, expected, difference)


def offsets_as_in_javascript(answer: Any, item: dict[str, str]) -> None:
    """Let places in the text count UTF-16 units instead of characters, where the answer has places."""
    text = item.get("context", item.get("text", ""))
    for row in answer:
        if "start" in row:
            row |= {edge: len(text[: row[edge]].encode("utf-16-le")) // 2 for edge in ("start", "end")}


def assert_same(found: Any, expected: Any, difference: float) -> None:
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, difference)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_same(found[name], expected[name], difference)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=difference)
    else:
        assert found == expected


# The tokenizers of these two add special tokens by RobertaProcessing and by TemplateProcessing.
@pytest.mark.parametrize("task", ["fill-mask", "text-generation"])
def test_tokens_and_their_places_are_those_of_python(page: Page, site: tuple[str, Path], task: str) -> None:
    file = DEFAULTS[task].folder / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    texts = random_texts(500, seed=len(task))
    page.goto(site[0])
    found = page.evaluate(
        """async ([file, texts]) => {
            const { Tokenizer } = await import("./tokenizer.js");
            const tokenizer = new Tokenizer(file);
            return texts.map((text) => tokenizer.encode(text).map(({ id, start, end }) => [id, start, end]));
        }""",
        [json.loads(file.read_text()), texts],
    )
    for text, tokens in zip(texts, found, strict=True):
        encoding = tokenizer.encode(text)
        units = [len(text[:place].encode("utf-16-le")) // 2 for place in range(len(text) + 1)]
        expected = [
            [token, units[start], units[end]]
            for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
        ]
        assert tokens == expected, repr(text)


def test_a_tokenizer_of_another_kind_is_refused_in_a_sentence(page: Page, site: tuple[str, Path]) -> None:
    file = json.loads((DEFAULTS["fill-mask"].folder / "tokenizer.json").read_text())
    page.goto(site[0])
    found = page.evaluate(
        """async (files) => {
            const { Tokenizer } = await import("./tokenizer.js");
            return files.map((file) => { try { new Tokenizer(file); } catch (error) { return error.message; } });
        }""",
        [
            file,
            file | {"normalizer": {"type": "NFC"}},
            file | {"model": {"type": "WordPiece", "vocab": {}}},
            file | {"model": file["model"] | {"vocab": {"a": 0}}},
        ],
    )
    for message, reason in zip(found[1:], ("a normalizer", "WordPiece, expected BPE", "lacks a token"), strict=True):
        assert reason in message
        assert message.startswith("tokenizer.json cannot be used here: ")
    assert found[0] is None


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_the_page_is_used_by_keyboard_alone(
    page: Page, site: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory, scheme: Any, width: int
) -> None:
    bundle = embedded_bundle(tmp_path_factory, "token-classification")
    put_beside(site[1], bundle, "tagger")
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 740})
    page.goto(site[0])
    keys = page.keyboard
    keys.press("Tab")
    keys.press("ControlOrMeta+A")
    keys.type("tagger")
    keys.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("token-classification, fp32, up to 256 tokens")
    expect(page.get_by_label("Text")).to_be_focused()
    keys.press("ControlOrMeta+A")
    keys.type("The dog barked.")
    keys.press("Tab")
    keys.type("max")
    keys.press("Tab")
    keys.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Done")
    cells = [row.get_by_role("cell").all_inner_texts() for row in page.get_by_role("row").all()[1:]]
    expected = pipeline(bundle, aggregation_strategy="max")("The dog barked.")
    assert [(row[0], row[2].strip()) for row in cells] == [
        (group["entity_group"], group["word"].strip()) for group in expected
    ]
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    expect(page.get_by_role("button", name="Run")).to_be_focused()


DAMAGES: Final[dict[str, Callable[[Path], object]]] = {
    "model.onnx differs from what was exported": lambda folder: (folder / "model.onnx").write_bytes(b"altered"),
    "the server answers 404": lambda folder: (folder / "rpln.json").unlink(),
    "schema version 2, expected 3": lambda folder: change_manifest(folder, schema_version=2),
    "task is multiple-choice, expected one of": lambda folder: change_manifest(folder, task="multiple-choice"),
}


def test_a_bundle_that_cannot_run_is_refused_in_a_sentence(
    page: Page, site: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory, problems: list[str]
) -> None:
    for number, (sentence, damage) in enumerate(DAMAGES.items()):
        damaged = site[1] / f"damaged-{number}"
        shutil.copytree(embedded_bundle(tmp_path_factory, "token-classification"), damaged)
        damage(damaged)
        page.goto(f"{site[0]}/?bundle={damaged.name}")
        expect(page.get_by_role("status")).to_contain_text(sentence)
    problems.clear()  # Chromium itself logs a file that is missing


def change_manifest(folder: Path, **fields: Any) -> None:
    path = folder / "rpln.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_text_that_is_too_long_is_refused_in_a_sentence(
    page: Page, site: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = embedded_bundle(tmp_path_factory, "text-classification")
    put_beside(site[1], bundle, "filter")
    page.goto(f"{site[0]}/?bundle=filter")
    page.get_by_label("Text").fill("money " * 500)
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("status")).to_contain_text("the limit is 128: shorten it")
