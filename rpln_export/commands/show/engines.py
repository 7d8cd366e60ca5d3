"""TensorRT engines as tables, with a row for each profile or for each kernel."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rpln_export.commands.show.console import make_console, make_table

if TYPE_CHECKING:
    from rpln_runtime.engines.manifest import EngineManifest


def print_engines(engines: "Sequence[EngineManifest]") -> None:
    """Print what each engine is, which GPUs it is for, and the memory that each of its profiles takes."""
    console = make_console()
    if not engines:
        console.print("This bundle has no engines. To add some, run: rpln build FOLDER --engine tensorrt-rtx")
        return
    for engine in engines:
        table = make_table("profile", "activations", "fused attentions", title=engine.plan.path)
        for number, profile in enumerate(engine.profiles):
            table.add_row(
                ", ".join(f"{axis}={sizes}" for axis, sizes in profile.items()),
                f"{engine.activations[number] / 1e6:,.1f} MB",
                str(engine.attentions[number]),
            )
        console.print(table)
        console.print(
            f"{engine.builder} {engine.version} for {', '.join(engine.targets)}: "
            f"{engine.variant} in {engine.precision}, "
            f"{engine.plan.size / 1e6:,.1f} MB, built in {engine.seconds:.1f} s",
            soft_wrap=True,
        )


def print_kernels(engine: "EngineManifest") -> None:
    """Print the kernels of an engine, and the nodes of the graph that each of them computes."""
    table = make_table("profile", "kernel", "kind", "takes", "gives", "computes", title=engine.plan.path)
    for layer in engine.layers:
        table.add_row(
            str(layer.profile),
            layer.name,
            layer.kind,
            ", ".join(dict.fromkeys(layer.inputs)),
            ", ".join(dict.fromkeys(layer.outputs)),
            "\n".join(layer.nodes),
        )
    make_console().print(table)
