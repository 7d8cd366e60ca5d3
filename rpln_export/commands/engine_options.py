"""The options of commands that build engines, handed to them as one EngineRequest."""

import functools
from collections.abc import Callable
from typing import Any, Final

import click

from rpln_export.commands.user_errors import user_errors
from rpln_export.commands.values import names

MIB: Final = 2**20
_MOST_MIB: Final = 2**43 - 1  # TensorRT counts bytes in 64 bits, with a sign in some of its versions

_Command = Callable[..., None]


def engine_options(*, required: bool) -> Callable[[_Command], _Command]:
    """Give a command the options of engines; where it is not `required`, --engine is auto."""

    def decorate(command: _Command) -> _Command:
        @functools.wraps(command)
        def collect(**chosen: Any) -> None:  # click passes every option of the command by its name
            with user_errors():  # an interrupt while modules load
                engines = _request(chosen)
            command(engines=engines, **chosen)

        decorated: _Command = collect
        for option in reversed(_options(required=required)):
            decorated = option(decorated)
        return decorated

    return decorate


def _request(chosen: dict[str, Any]) -> Any:
    """Take the options of engines out of `chosen`."""
    from rpln_export.plan.engines import EngineRequest
    from rpln_graphs.tensorrt.backends import EngineOptions

    workspace = chosen.pop("workspace")
    switches = {name: chosen.pop(name) for name in _SWITCHES}
    options = EngineOptions(workspace=workspace and workspace * MIB, **switches)
    return EngineRequest(
        name=chosen.pop("engine"), gpus=chosen.pop("gpus"), profiles=chosen.pop("profiles"), options=options
    )


_SWITCHES: Final = {
    "version_compatible": "Engines that later versions of TensorRT run.",
    "hardware_compatible": "Engines that later GPUs run.",
    "strip_weights": "Engines without weights: those of the graph are put in.",
    "verbose": "Pass TensorRT's log through.",
}


def _options(*, required: bool) -> list[Callable[[_Command], _Command]]:
    """All of them; where engines are not the point, help shows those that most need."""
    # To click, a default of None is one, and what has one need not be said.
    said: dict[str, Any] = {"required": True} if required else {"default": "auto"}
    choices = "tensorrt, tensorrt-rtx." if required else "tensorrt, tensorrt-rtx, none. [default: auto]"
    hidden = not required
    return [
        click.option("--engine", **said, help=choices),
        click.option("--gpu", "gpus", default="", callback=names, help="Of tensorrt-rtx, as sm89,sm120."),
        click.option("--profile", "profiles", multiple=True, help="Sizes, as batch=1:8:32,sequence=1:128:384."),
        click.option(
            "--workspace",
            type=click.IntRange(min=1, max=_MOST_MIB),
            help="MiB that a kernel may use. [default: all]",
            hidden=hidden,
        ),
        *(
            click.option(f"--{name.replace('_', '-')}", is_flag=True, help=text, hidden=hidden)
            for name, text in _SWITCHES.items()
        ),
    ]
