"""The options of commands that build TensorRT engines: arguments of `rpln_export.plan.engines.engine_request`."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

import cloup

from rpln_export.commands.table_option import TableOption, builders, engines
from rpln_export.commands.user_errors import user_errors
from rpln_export.commands.values import names

_Command = Callable[..., None]
_Decorator = Callable[[_Command], _Command]

_SWITCHES: Final = {
    "version_compatible": "Build engines that later versions of TensorRT run, too.",
    "hardware_compatible": "Build engines that later generations of GPUs run, too.",
    "strip_weights": "Leave the weights out of the engines; they are read from the graph when an engine is loaded.",
    "verbose": "Print TensorRT's log on stderr.",
}


def required_engine(command: _Command) -> _Command:
    """Give a command the options of engines, with --engine required, and hand them to it as `engines`."""

    @functools.wraps(command)
    def collect(**chosen: Any) -> None:  # click passes every option of the command by its name
        with user_errors():  # an interrupt while modules load
            from rpln_export.plan.engines import engine_request

            request = engine_request(
                **{name: chosen.pop(name) for name in inspect.signature(engine_request).parameters}
            )
        command(engines=request, **chosen)

    decorated: _Command = engine_options(required=True)(collect)
    return decorated


def engine_options(*, required: bool) -> _Decorator:
    """Return a decorator that gives a command the options of engines; the default of --engine is auto if it has one."""
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
            metavar="MIB",
            help="The most memory of the GPU that a kernel may use for intermediate results. [default: all]",
        ),
        *(cloup.option(f"--{name.replace('_', '-')}", is_flag=True, help=text) for name, text in _SWITCHES.items()),
    )
