"""The options of commands that build TensorRT engines, handed to them as one EngineRequest."""

import functools
from collections.abc import Callable
from typing import Any, Final

import click
import cloup

from rpln_export.commands.table_option import TableOption, builders, engines
from rpln_export.commands.user_errors import user_errors
from rpln_export.commands.values import names

MIB: Final = 2**20
"""The bytes of a MiB."""
_MOST_MIB: Final = 2**43 - 1  # TensorRT counts bytes in 64 bits, with a sign in some of its versions

_Command = Callable[..., None]

_SWITCHES: Final = {
    "version_compatible": "Build engines that later versions of TensorRT run, too.",
    "hardware_compatible": "Build engines that later generations of GPUs run, too.",
    "strip_weights": "Leave the weights out of the engines; they are read from the graph when an engine is loaded.",
    "verbose": "Print TensorRT's log on stderr.",
}


def engine_options(*, required: bool) -> Callable[[_Command], _Command]:
    """Return a decorator that gives a command the options of engines, and hands them to it as `engines`.

    Where --engine is not `required`, its default is auto.
    """

    def decorate(command: _Command) -> _Command:
        @functools.wraps(command)
        def collect(**chosen: Any) -> None:  # click passes every option of the command by its name
            with user_errors():  # an interrupt while modules load
                request = _request(chosen)
            command(engines=request, **chosen)

        decorated: _Command = _options(required=required)(collect)
        return decorated

    return decorate


def _request(chosen: dict[str, Any]) -> Any:
    """Take the options of engines out of `chosen` and return them as an EngineRequest."""
    from rpln_export.plan.engines import EngineRequest
    from rpln_graphs.tensorrt.backends import EngineOptions

    workspace = chosen.pop("workspace")
    switches = {name: chosen.pop(name) for name in _SWITCHES}
    options = EngineOptions(workspace=workspace and workspace * MIB, **switches)
    return EngineRequest(
        name=chosen.pop("engine"), gpus=chosen.pop("gpus"), profiles=chosen.pop("profiles"), options=options
    )


def _workspace(context: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    """Return `value` as it is. Raises click.BadParameter for a size that no memory has."""
    if value is not None and not 0 < value <= _MOST_MIB:
        raise click.BadParameter(f"{value} is not in the range 1 to {_MOST_MIB}.")
    return value


def _options(*, required: bool) -> Callable[[_Command], _Command]:
    engine: dict[str, Any] = (
        {"required": True, "rows": builders} if required else {"default": "auto", "show_default": True, "rows": engines}
    )
    return cloup.option_group(
        "TensorRT engines",
        cloup.option("--engine", cls=TableOption, help="The TensorRT that compiles the graphs: {rows}.", **engine),
        cloup.option(
            "--gpu",
            "gpus",
            default="",
            callback=names,
            help="The GPUs that tensorrt-rtx builds for, as compute capabilities separated by commas, for example "
            "sm89,sm120.",
        ),
        cloup.option(
            "--profile",
            "profiles",
            multiple=True,
            help="Sizes that engines are built for, as AXIS=MINIMUM:TUNED:MAXIMUM or AXIS=SIZE, for "
            "example batch=1:8:32,sequence=1:128:384. Give it again for another profile.",
        ),
        cloup.option(
            "--workspace",
            type=int,
            callback=_workspace,
            metavar="MIB",
            help="The most memory of the GPU that a kernel may use for intermediate results. [default: all]",
        ),
        *(cloup.option(f"--{name.replace('_', '-')}", is_flag=True, help=text) for name, text in _SWITCHES.items()),
    )
