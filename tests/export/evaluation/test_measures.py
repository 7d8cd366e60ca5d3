"""The metrics of a checkpoint equal those that are computed here with transformers' own models, one text at a time."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from rpln_export.evaluation.evaluate import Evaluation, evaluate
from rpln_export.evaluation.examples import read_examples
from rpln_export.evaluation.measures import MEASURES
from rpln_export.evaluation.runners import Runner, runner_from_checkpoint, runner_from_functions
from rpln_runtime.tasks import TASKS
from tests.export.checkpoints import USABLE_LENGTH, make_checkpoint
from tests.export.evaluation.examples_of_tasks import EXAMPLES, FORMS, Line

TASK_OF = {kind.__name__: task for task, kinds in MEASURES.items() for kind in kinds}


class Network:
    """A tiny checkpoint, opened by transformers and by the evaluation."""

    def __init__(self, form: str, folder: Path) -> None:
        task = TASK_OF[form]
        make_checkpoint(folder, task, **FORMS.get(form, {}))
        self.form, self.folder = form, folder
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = getattr(transformers, TASKS[task].architecture).from_pretrained(folder).eval()
        self.runner: Runner = runner_from_checkpoint(str(folder), task=task)

    def evaluate(self, lines: list[Line] | None = None, *, truncation: bool = False) -> Evaluation:
        path = self.folder / "examples.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines or EXAMPLES[self.form]), encoding="utf-8")
        runner = self.runner
        return evaluate(runner, read_examples(path, runner.manifest, runner.tokenizer, truncation=truncation))

    def encode(self, *texts: str | None, **options: Any) -> Any:
        return self.tokenizer(*(text for text in texts if text is not None), return_tensors="pt", **options)

    def __call__(self, *texts: str | None, **options: Any) -> Any:
        with torch.inference_mode():
            return self.model(**self.encode(*texts), **options)


@pytest.fixture
def network(tmp_path: Path) -> Callable[[str], Network]:
    return lambda form: Network(form, tmp_path)


def f1(right: int, found: int, wanted: int) -> float:
    """Return F1 from the number of right ones among those found and those wanted."""
    return 2 * right / (found + wanted) if found + wanted else 0.0


def macro_f1(pairs: list[tuple[Any, Any]]) -> float:
    labels = {label for pair in pairs for label in pair}
    counts = (
        (pairs.count((label, label)), sum(p[1] == label for p in pairs), sum(p[0] == label for p in pairs))
        for label in labels
    )
    return float(np.mean([f1(*count) for count in counts]))


def ranks(values: list[float]) -> list[float]:
    """Return the ranks of values; equal ones have the mean of theirs."""
    return [float(np.mean([place for place, other in enumerate(sorted(values)) if other == value])) for value in values]


def test_single_labels(network: Callable[[str], Network]) -> None:
    own = network("SingleLabel")
    names = own.model.config.id2label
    pairs = []
    for line in EXAMPLES[own.form]:
        found = int(own(line["text"], line.get("text_pair")).logits.argmax())
        pairs.append((names[line["label"]] if isinstance(line["label"], int) else line["label"], names[found]))
    accuracy = np.mean([right == found for right, found in pairs])
    assert own.evaluate().metrics == pytest.approx({"accuracy": accuracy, "macro_f1": macro_f1(pairs)})


def test_several_labels(network: Callable[[str], Network]) -> None:
    own = network("MultiLabel")
    names = list(own.model.config.id2label.values())
    table = []
    for line in EXAMPLES[own.form]:
        probabilities = own(line["text"]).logits[0].sigmoid()
        table.append([(name in line["labels"], bool(p > 0.5)) for name, p in zip(names, probabilities, strict=True)])
    counts = np.array(
        [
            [sum(r and f for r, f in column), sum(f for _, f in column), sum(r for r, _ in column)]
            for column in zip(*table, strict=True)
        ]
    )
    assert 0 < counts[:, 0].sum() < counts[:, 1].sum()
    expected = {"macro_f1": np.mean([f1(*row) for row in counts]), "micro_f1": f1(*counts.sum(axis=0))}
    assert own.evaluate().metrics == pytest.approx(expected)


def test_values(network: Callable[[str], Network]) -> None:
    own = network("Regression")
    found = [float(own(line["text"]).logits) for line in EXAMPLES[own.form]]
    right = [line["score"] for line in EXAMPLES[own.form]]
    expected = np.corrcoef(ranks(found), ranks(right))[0, 1]
    assert own.evaluate().metrics == pytest.approx({"spearman": expected})


def labels_of_words(own: Network, line: Line) -> list[str]:
    """Return the label of each word, which is that of the token at its first character."""
    text = line.get("text", " ".join(line["words"]))
    encoding = own.encode(text, return_offsets_mapping=True)
    labels = own(text).logits[0].argmax(-1).tolist()
    found, end = [], 0
    for word in line["words"]:
        start = text.index(word, end)
        end = start + len(word)
        place = next(i for i, (a, b) in enumerate(encoding["offset_mapping"][0].tolist()) if a <= start < b)
        found.append(own.model.config.id2label[labels[place]])
    return found


def test_labels_of_words(network: Callable[[str], Network]) -> None:
    own = network("WordLabels")
    lines = [line for line in EXAMPLES[own.form] if len(own.encode(line.get("text", ""))["input_ids"][0]) < 40]
    pairs = [pair for line in lines for pair in zip(line["labels"], labels_of_words(own, line), strict=True)]
    accuracy = np.mean([right == found for right, found in pairs])
    assert 0 < accuracy < 1
    assert own.evaluate(lines).metrics == pytest.approx({"accuracy": accuracy, "macro_f1": macro_f1(pairs)})


def test_entities(network: Callable[[str], Network]) -> None:
    own = network("Entities")
    lines = EXAMPLES[own.form]
    predicted = [labels_of_words(own, line) for line in lines]
    # What the network finds in the first two texts is made right, so that F1 is neither 0 nor 1.
    lines = [{**line, "labels": found} for line, found in zip(lines[:2], predicted, strict=False)] + lines[2:]
    right, found = (
        {(place, *entity) for place, labels in enumerate(rows) for entity in entities(labels)}
        for rows in ([line["labels"] for line in lines], predicted)
    )
    words = [pair for line, row in zip(lines, predicted, strict=True) for pair in zip(line["labels"], row, strict=True)]
    both = len(right & found)
    assert 0 < both < len(found)
    assert own.evaluate(lines).metrics == pytest.approx(
        {
            "entity_f1": f1(both, len(found), len(right)),
            "entity_precision": both / len(found),
            "entity_recall": both / len(right),
            "accuracy": np.mean([one == other for one, other in words]),
        }
    )


def entities(labels: list[str]) -> list[tuple[str, int, int]]:
    """Return kind, first and last word of each entity: words of one kind in a row, where B- begins another."""
    found: list[tuple[str, int, int]] = []
    for place, label in enumerate(labels):
        kind = label[2:]
        if label == "O":
            continue
        if found and label.startswith("I-") and found[-1][0] == kind and found[-1][2] == place - 1:
            found[-1] = (kind, found[-1][1], place)
        else:
            found.append((kind, place, place))
    return found


def test_choices(network: Callable[[str], Network]) -> None:
    own = network("Choices")
    right = 0
    for line in EXAMPLES[own.form]:
        pairs = own.tokenizer(
            [line["prompt"]] * len(line["choices"]), line["choices"], return_tensors="pt", padding=True
        )
        with torch.inference_mode():
            logits = own.model(**{name: tensor[None] for name, tensor in pairs.items()}).logits
        right += int(logits.argmax()) == line["label"]
    assert own.evaluate().metrics == pytest.approx({"accuracy": right / 3})


def nats_and_hit(logits_V: torch.Tensor, target: int) -> tuple[float, bool]:
    return -float(logits_V.double().log_softmax(-1)[target]), int(logits_V.argmax()) == target


def expected_of_masks(found: list[tuple[float, bool]]) -> Any:
    nats, hits = zip(*found, strict=True)
    return pytest.approx({"accuracy": np.mean(hits), "pseudo_perplexity": math.exp(np.mean(nats))}, rel=1e-5)


def test_masks_that_are_put_into_texts(network: Callable[[str], Network]) -> None:
    own = network("MaskedTexts")
    found = []
    lines = [line for line in EXAMPLES[own.form] if len(own.encode(line["text"])["input_ids"][0]) <= USABLE_LENGTH]
    for line in lines:
        ids = own.encode(line["text"])["input_ids"]
        for first in range(1, 8):  # token 0 is <s>
            masked = range(first, ids.shape[1] - 1, 7)
            altered = ids.clone()
            altered[0, list(masked)] = own.tokenizer.mask_token_id
            with torch.inference_mode():
                logits = own.model(altered).logits[0]
            found += [nats_and_hit(logits[place], int(ids[0, place])) for place in masked]
    assert len(lines) == 5
    assert own.evaluate(lines).metrics == expected_of_masks(found)


def test_each_token_of_a_long_text_is_masked_once(network: Callable[[str], Network]) -> None:
    own = network("MaskedTexts")
    line = {"text": "The dog barked. " * 30}
    tokens = len(own.encode(line["text"])["input_ids"][0]) - 2
    assert tokens > 2 * USABLE_LENGTH
    assert len(own.evaluate([line]).decisions[0]) == tokens


def test_masks_of_a_text(network: Callable[[str], Network]) -> None:
    own = network("Cloze")
    found = []
    for line, names in zip(EXAMPLES[own.form], [["Ġthe"], ["Ġthe", "."]], strict=True):
        places = (own.encode(line["text"])["input_ids"][0] == own.tokenizer.mask_token_id).nonzero()
        targets = [own.tokenizer.get_vocab()[name] for name in names]
        logits = own(line["text"]).logits[0]
        found += [nats_and_hit(logits[int(p)], target) for p, target in zip(places, targets, strict=True)]
    assert own.evaluate().metrics == expected_of_masks(found)


def test_texts_that_go_on(network: Callable[[str], Network]) -> None:
    own = network("Continuations")
    nats = tokens = 0.0
    lines = [line for line in EXAMPLES[own.form] if len(own.encode(line["text"])["input_ids"][0]) <= USABLE_LENGTH]
    for line in lines:
        ids = own.encode(line["text"])["input_ids"][:, :-1]  # without </s>
        with torch.inference_mode():
            loss = own.model(ids, labels=ids).loss
        nats += float(loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    assert len(lines) == 5
    assert own.evaluate(lines).metrics == pytest.approx({"perplexity": math.exp(nats / tokens)}, rel=1e-5)


def test_a_long_text_goes_on_in_windows_that_share_half_of_their_tokens(network: Callable[[str], Network]) -> None:
    own = network("Continuations")
    line = EXAMPLES[own.form][-1]
    body = own.encode(line["text"])["input_ids"][0, 1:-1].tolist()
    room = USABLE_LENGTH  # 65 tokens of which the last is not fed, with <s>
    nats, counted = [], 0
    while counted < len(body):
        start = max(0, counted - room // 2)
        window = body[start : start + room]
        with torch.inference_mode():
            logits = own.model(torch.tensor([[0, *window[:-1]]])).logits[0]
        nats += [nats_and_hit(logits[place], window[place])[0] for place in range(counted - start, len(window))]
        counted = start + len(window)
    assert len(nats) == len(body) > 3 * room
    evaluation = own.evaluate([line])
    assert evaluation.metrics == pytest.approx({"perplexity": math.exp(np.mean(nats))}, rel=1e-5)
    assert len(evaluation.decisions[0]) == len(body)


def test_texts_that_answer_texts(network: Callable[[str], Network]) -> None:
    own = network("Translations")
    nats = tokens = 0.0
    for line in EXAMPLES[own.form]:
        labels = own.encode(line["target"])["input_ids"][:, 1:]  # behind <s>, with which the decoder starts
        fed = torch.cat([torch.tensor([[0]]), labels[:, :-1]], dim=1)
        logits = own(line["text"], decoder_input_ids=fed).logits[0]
        nats += sum(nats_and_hit(row, int(target))[0] for row, target in zip(logits, labels[0], strict=True))
        tokens += labels.shape[1]
    assert own.evaluate().metrics == pytest.approx({"perplexity": math.exp(nats / tokens)}, rel=1e-5)


def vector(own: Network, text: str) -> torch.Tensor:
    mean: torch.Tensor = own(text).last_hidden_state[0].mean(0)
    unit: torch.Tensor = mean / mean.norm()
    return unit


def test_similar_texts(network: Callable[[str], Network]) -> None:
    own = network("Similarity")
    lines = EXAMPLES[own.form]
    cosines = [float(vector(own, line["text1"]) @ vector(own, line["text2"])) for line in lines]
    expected = np.corrcoef(ranks([round(cosine, 5) for cosine in cosines]), ranks([line["score"] for line in lines]))
    assert own.evaluate().metrics == pytest.approx({"spearman": expected[0, 1]})


def test_retrieval(network: Callable[[str], Network]) -> None:
    own = network("Retrieval")
    texts = [line["query"] for line in EXAMPLES[own.form]]
    # The last two queries look for each other's texts, the first three for their own.
    lines = [{"query": text, "positive": text} for text in texts[:3]]
    lines += [{"query": texts[3], "positive": texts[4]}, {"query": texts[4], "positive": texts[3]}]
    assert own.evaluate(lines).metrics == pytest.approx({"retrieval_accuracy": 3 / 5})
    # A text that several queries look for is right for each of them.
    lines = [{"query": texts[0], "positive": texts[0]}] * 3
    assert own.evaluate(lines).metrics == pytest.approx({"retrieval_accuracy": 1})


def test_answers_are_those_of_the_pipeline_by_the_rules_of_squad(network: Callable[[str], Network]) -> None:
    own = network("Answers")
    lines = EXAMPLES[own.form]
    (answers,) = zip(*own.evaluate().decisions, strict=True)
    right = [
        {**line, "answers": ["nothing", f"The {answer.upper()}!"]} for line, answer in zip(lines, answers, strict=True)
    ]
    assert own.evaluate(right).metrics == {"f1": 1, "exact_match": 1}


def test_no_answer_is_given_only_if_a_question_of_the_data_has_none(network: Callable[[str], Network]) -> None:
    own = network("Answers")

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        logits = np.zeros(feeds["input_ids"].shape, np.float32)
        logits[:, 0] = 5  # the first token stands for no answer
        return {"start_logits": logits, "end_logits": logits}

    runner = own.runner
    own.runner = runner_from_functions(runner.manifest, runner.tokenizer, {"full": run}, provider="none")
    lines = EXAMPLES[own.form]
    assert all(answer for (answer,) in own.evaluate(lines).decisions)
    found = own.evaluate([{**lines[0], "answers": []}, *lines[1:]])
    assert found.decisions == [[""]] * 3
    assert found.metrics == pytest.approx({"f1": 1 / 3, "exact_match": 1 / 3})


@pytest.mark.parametrize(
    ("form", "long"),
    [
        ("SingleLabel", {"text": "The dog barked. " * 30, "label": "O"}),
        ("Choices", {"prompt": "The dog barked. " * 30, "choices": ["Yes.", "No."], "label": 0}),
        ("Cloze", {"text": "On <mask> roof. " + "The dog barked. " * 30, "targets": ["the"]}),
        ("Translations", {"text": "The dog barked. " * 30, "target": "The cat slept. " * 30}),
        ("Similarity", {"text1": "The dog barked. " * 30, "text2": "The cat slept.", "score": 1}),
    ],
)
def test_texts_that_are_too_long_are_cut_where_that_is_asked_for(
    network: Callable[[str], Network], form: str, long: Line
) -> None:
    own = network(form)
    found = own.evaluate([*EXAMPLES[form], long], truncation=True)
    assert found.examples == len(EXAMPLES[form]) + 1
    assert all(math.isfinite(value) for value in found.metrics.values())
