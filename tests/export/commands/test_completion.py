"""What a shell offers behind the Tab key, asked in click's own way."""

import pytest
from click.shell_completion import ShellComplete

from rpln_export.cli import export_command, rpln_command
from rpln_graphs.recipes import RECIPES
from rpln_runtime.engines.providers import PROVIDERS
from rpln_runtime.tasks import TASKS


def offered(program: str, *words: str) -> list[str]:
    """Return what is offered for the last of the words."""
    command = {"rpln": rpln_command, "rpln-export": export_command}[program]
    completion = ShellComplete(command, {}, program, f"_{program.upper().replace('-', '_')}_COMPLETE")
    return [item.value for item in completion.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("rpln-export", "--task", ""), list(TASKS)),
        (("rpln-export", "--precision", ""), list(RECIPES)),
        (("rpln", "run", "tagger", "--provider", ""), list(PROVIDERS)),
        (("rpln-export", "--task", "token"), ["token-classification"]),
        (("rpln", "bench", "tagger", "--provider", "cpu,open"), ["cpu,openvino"]),
        (("rpln", "val"), ["validate"]),
        (("rpln-export", "--fp"), ["--fp16", "--fp8"]),
    ],
)
def test_names_are_offered(words: tuple[str, ...], names: list[str]) -> None:
    assert sorted(offered(*words)) == sorted(names)
