"""Examples that cannot be measured are refused in a sentence with their file, line and field."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rpln_export.evaluation.examples import Examples, read_examples
from rpln_export.evaluation.runners import Runner, runner_from_checkpoint
from rpln_runtime.errors import InputError
from tests.export.checkpoints import make_checkpoint
from tests.export.evaluation.examples_of_tasks import EXAMPLES, FORMS

LONG = "The dog barked. " * 30
DEFECTS = [
    # not the file it should be
    ("SingleLabel", b"", "it.jsonl is empty, expected a JSON object on each line, with 'text' (a text) and"),
    ("SingleLabel", b"\n \n", "it.jsonl is empty"),
    ("SingleLabel", b"text,label\n", "line 1: it is not JSON"),
    ("SingleLabel", b'{"text": "A", "label": "O"}\n["A", "O"]\n', "line 2: it is not a JSON object."),
    ("SingleLabel", b'{"text": "\xff", "label": "O"}', "line 1: it is not JSON"),
    ("SingleLabel", b'\xef\xbb\xbf{"text": "A", "label": "O"}', "line 1: it is not JSON (it begins with a byte order"),
    # of another task, or another form
    (
        "WordLabels",
        [{"question": "A", "context": "B"}],
        "line 1: it has the fields 'question', 'context', but token-classification needs 'words' (a list of texts) and",
    ),
    ("Similarity", [{}], "line 1: it has the fields none, but feature-extraction needs 'text1' (a text) and"),
    ("Similarity", [{"text1": "A"}], "'score' (a number), or 'query' (a text) and 'positive' (a text)."),
    (
        "MultiLabel",
        [{"text": "A", "label": "O"}],
        "needs 'text' (a text) and 'text_pair' (a text, optional) and 'labels'",
    ),
    # a field
    ("SingleLabel", [{"text": "A", "label": "O"}, {"text": "A"}], "line 2: it has no field 'label', expected 'text'"),
    ("SingleLabel", [{"text": 7, "label": "O"}], "line 1: its 'text' is of type int, expected a text."),
    ("SingleLabel", [{"text": None, "label": "O"}], "line 1: its 'text' is None, expected a text."),
    ("SingleLabel", [{"text": "A", "label": 1.5}], "line 1: its 'label' is of type float, expected a label."),
    ("SingleLabel", [{"text": "A", "label": True}], "line 1: its 'label' is of type bool, expected a label."),
    (
        "SingleLabel",
        [{"text": "A", "label": "NOUNS"}],
        "line 1: its 'label' is 'NOUNS', expected one of O, NOUN, VERB,",
    ),
    ("SingleLabel", [{"text": "A", "label": 5}], "line 1: its 'label' is 5, expected one of O, NOUN"),
    ("SingleLabel", [{"text": "A", "label": -1}], "line 1: its 'label' is -1, expected one of O, NOUN"),
    ("MultiLabel", [{"text": "A", "labels": ["O", "X"]}], "line 1: its 'labels'[1] is 'X', expected one of"),
    ("MultiLabel", [{"text": "A", "labels": [["O"]]}], "line 1: its 'labels'[0] is ['O'], expected one of"),
    ("Regression", [{"text": "A", "score": "1"}], "line 1: its 'score' is of type str, expected a number."),
    ("WordLabels", [{"words": "A", "labels": ["O"]}], "line 1: its 'words' is of type str, expected a list of texts."),
    ("WordLabels", [{"words": ["A", 1], "labels": ["O", "O"]}], "its 'words' is a list with other parts, expected"),
    ("WordLabels", [{"words": [], "labels": []}], "line 1: its 'words' is empty, expected at least one word."),
    (
        "WordLabels",
        [{"words": ["A", "B"], "labels": ["O"]}],
        "line 1: it has 2 'words' and 1 'labels', expected a label",
    ),
    ("WordLabels", [{"words": ["A"], "labels": ["B-PER"]}], "line 1: its 'labels'[0] is 'B-PER', expected one of"),
    ("WordLabels", [{"words": ["A", ""], "labels": ["O", "O"]}], "line 1: its 'words'[1], '', is empty."),
    ("WordLabels", [{"words": [" "], "labels": ["O"], "text": "A B"}], "line 1: its 'words'[0], ' ', has no token."),
    (
        "WordLabels",
        [{"words": ["B", "A"], "labels": ["O", "O"], "text": "A B"}],
        "line 1: its 'words'[1], 'A', is not in 'text' behind the words before it.",
    ),
    ("Entities", [{"words": ["A"], "labels": ["PER"]}], "its 'labels'[0] is 'PER', expected one of O, B-PER, I-PER"),
    ("Answers", [{"question": "A", "context": "B", "answers": "B"}], "its 'answers' is of type str, expected a list"),
    ("Answers", [{"question": "", "context": "B", "answers": []}], "line 1: the question is empty, expected a text."),
    ("Choices", [{"prompt": "A", "choices": [], "label": 0}], "its 'choices' is empty, expected at least one choice."),
    ("Choices", [{"prompt": "A", "choices": ["B"], "label": "B"}], "its 'label' is of type str, expected an integer."),
    (
        "Choices",
        [{"prompt": "A", "choices": ["B"], "label": 1}],
        "its 'label' is 1, expected the place of a choice, 0 to 0",
    ),
    ("MaskedTexts", [{"text": ""}], "line 1: its 'text' has no tokens, expected some to mask."),
    ("MaskedTexts", [{"text": "A <mask>."}], "line 1: its 'text' has <mask>, but it has no 'targets' for it."),
    (
        "Cloze",
        [{"text": "A <mask>.", "targets": []}],
        "it has 0 'targets', expected one for each of the masks in 'text', 1.",
    ),
    ("Cloze", [{"text": "A.", "targets": []}], "it has 0 'targets', expected one for each of the masks in 'text', 0."),
    ("Cloze", [{"text": "A <mask>.", "targets": ["dogs"]}], "its 'targets' ['dogs'] are not a single token each"),
    ("Continuations", [{"text": ""}], "line 1: its 'text' has no token to predict."),
    # longer than the limit, where nothing is read in windows
    (
        "SingleLabel",
        [{"text": LONG, "label": "O"}],
        "its 'text' has 302 tokens, but the limit of this model is 64. Shorten",
    ),
    ("Choices", [{"prompt": "A", "choices": ["B", LONG], "label": 0}], "line 1: its 'choices'[1] has"),
    ("Cloze", [{"text": f"{LONG}<mask>", "targets": ["the"]}], "line 1: its 'text' has"),
    ("Translations", [{"text": LONG, "target": "A"}], "line 1: its 'text' has"),
    ("Translations", [{"text": "A", "target": LONG}], "line 1: its 'target' has"),
    ("Retrieval", [{"query": "A", "positive": LONG}], "line 1: its 'positive' has"),
    ("Answers", [{"question": LONG, "context": LONG, "answers": []}], "line 1: a window of"),
]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Runner]:
    """Return a function that gives the tiny checkpoint of a form of examples."""
    from rpln_export.evaluation.measures import MEASURES

    made: dict[str, Runner] = {}

    def make(form: str) -> Runner:
        task = next(task for task, kinds in MEASURES.items() if form in [kind.__name__ for kind in kinds])
        key = form if form in FORMS else task
        if key not in made:
            folder = make_checkpoint(tmp_path_factory.mktemp(key), task, **FORMS.get(form, {}))
            made[key] = runner_from_checkpoint(str(folder))
        return made[key]

    return make


def read(runner: Runner, content: object, folder: Path) -> Examples:
    path = folder / "it.jsonl"
    lines = content if isinstance(content, list) else []
    path.write_bytes(content if isinstance(content, bytes) else "\n".join(map(json.dumps, lines)).encode())
    return read_examples(path, runner.manifest, runner.tokenizer)


@pytest.mark.parametrize(("form", "content", "says"), DEFECTS)
def test_it_is_refused_in_a_sentence(
    runner: Callable[[str], Runner], form: str, content: object, says: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as refusal:
        read(runner(form), content, tmp_path)
    message = str(refusal.value)
    assert says in message
    assert message.startswith(str(tmp_path / "it.jsonl"))
    assert message.endswith(".")


def test_a_file_that_is_missing_is_refused(runner: Callable[[str], Runner], tmp_path: Path) -> None:
    own = runner("SingleLabel")
    for path in (tmp_path / "nowhere.jsonl", tmp_path):
        with pytest.raises(InputError, match=r"cannot be read \(.*\)\. Expected a file of JSON lines\."):
            read_examples(path, own.manifest, own.tokenizer)


def test_blank_lines_and_other_fields_are_passed_over(runner: Callable[[str], Runner], tmp_path: Path) -> None:
    content = b'{"id": 7, "text": "A", "label": "O"}\r\n\n{"text": "B", "label": 1}\n'
    found = read(runner("SingleLabel"), content, tmp_path)
    assert [line["label"] for line in found.fields] == ["O", 1]


def test_the_first_line_says_which_form_the_examples_have(runner: Callable[[str], Runner], tmp_path: Path) -> None:
    for form in ("Similarity", "Retrieval", "Cloze", "MaskedTexts"):
        assert type(read(runner(form), EXAMPLES[form], tmp_path).measure).__name__ == form


def test_a_text_whose_masks_are_cut_off_is_refused(runner: Callable[[str], Runner], tmp_path: Path) -> None:
    own, path = runner("Cloze"), tmp_path / "it.jsonl"
    path.write_text(json.dumps({"text": f"{LONG}<mask>", "targets": ["the"]}))
    with pytest.raises(InputError, match="line 1: its 'text' has no mask in the part that is left when it is cut"):
        read_examples(path, own.manifest, own.tokenizer, truncation=True)


def test_a_network_without_a_metric_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "text-classification", problem_type="regression")
    with pytest.raises(InputError, match="text-classification of the problem type 'regression' with 5 labels"):
        read(runner_from_checkpoint(str(folder)), [{"text": "A", "score": 1}], tmp_path)
