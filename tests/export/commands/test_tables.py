"""Tables in narrow terminals and in pipes: names are whole or go on in the next line, and none is cut."""

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rpln_export.commands.show import answers, console, engines, evaluation, graphs, report, side_by_side
from rpln_export.commands.show.answers import print_answers
from rpln_export.commands.show.console import make_table
from rpln_export.commands.show.engines import print_engines, print_kernels
from rpln_export.commands.show.report import print_comparisons

Row: Any = SimpleNamespace
"""What a table reads of an engine or a comparison."""
LONG = "_".join(["encoder.layer.11.attention.output.dense.weight_quantized"] * 4)


@pytest.fixture(params=[60, 80], autouse=True)
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A terminal of so many columns."""
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    return int(request.param)


def columns_of(shown: str) -> Iterator[str]:
    """Yield what each column of a table holds, its lines joined."""
    rows = [line.strip("│").split("│") for line in shown.splitlines() if line.startswith("│")]
    yield from ("".join(cell.strip() for cell in column) for column in zip(*rows, strict=True))


def plain(shown: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", shown)


def test_a_table_keeps_names_whole(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    table = make_table("graph", "name")
    table.add_row("full", LONG)
    console.make_console().print(table)
    shown = plain(capsys.readouterr().out)
    assert max(map(len, shown.splitlines())) <= width
    assert LONG in list(columns_of(shown))
    assert "…" not in shown


def test_no_module_makes_tables_of_its_own() -> None:
    modules = (answers, engines, evaluation, graphs, report, side_by_side)
    assert not [module.__name__ for module in modules if "Table" in vars(module)]


def test_kernels_and_engines_keep_names_whole(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    kernel = Row(profile=0, name=LONG, kind="Myelin", inputs=[LONG], outputs=[LONG], nodes=[LONG])
    engine = Row(
        plan=Row(path=f"engines/{LONG}.plan", size=1),
        layers=[kernel],
        profiles=[{"batch": [1, 4, 8], "sequence": [1, 128, 256]}],
        activations=[1],
        attentions=[4],
        builder="tensorrt-rtx",
        version="1",
        targets=("sm80",),
        variant="full",
        precision="fp16",
        seconds=1.0,
    )
    print_kernels(engine)
    print_engines([engine])
    shown = plain(capsys.readouterr().out)
    assert "…" not in shown
    assert max(len(line) for line in shown.splitlines() if line[:1] in "│┃") <= width


def test_comparisons_keep_names_whole(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    row = Row(
        output=LONG,
        method=f"rounding copy, {LONG}",
        cases=46,
        difference=1e-3,
        distance=None,
        noise=None,
        agreement=1.0,
        decisions=1_064,
        ties=10,
    )
    print_comparisons([row])
    shown = plain(capsys.readouterr().out)
    assert "…" not in shown
    assert next(columns_of(shown)) == LONG


def test_vectors_are_summed_up_unless_all_numbers_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    vectors = np.array([[[3.0, 4.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]]], np.float32)
    print_answers(["two", "one"], [vectors, np.array([0.6, 0.8], np.float32)])
    shown = " ".join(plain(capsys.readouterr().out).split())
    assert "two 2 vectors of 5 numbers" in shown
    assert "1.0000 to 5.0000; the first: 3.0000, 4.0000, 0.0000, 0.0000, ..." in shown
    assert "one a vector of 2 numbers, of length 1.0000: 0.6000, 0.8000" in shown
    print_answers(["two"], [vectors], full=True)
    _, _, numbers = plain(capsys.readouterr().out).partition("\n")
    assert json.loads(numbers) == vectors.tolist()
