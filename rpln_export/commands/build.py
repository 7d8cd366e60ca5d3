"""`rpln build`: add engines to a finished bundle."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from rpln_export.commands.engine_options import required_engine
from rpln_export.commands.settings import HELP
from rpln_export.commands.user_errors import user_errors

if TYPE_CHECKING:
    from rpln_export.plan.engines import EngineRequest


@cloup.command("build", context_settings=HELP, short_help="Add TensorRT engines to a bundle.")
@cloup.argument("folder", type=click.Path(path_type=Path), help="The folder of the bundle.")
@required_engine
@cloup.option(
    "--allow-partial-fusion", is_flag=True, help="Accept engines in which an attention takes several kernels."
)
@cloup.option("--json", "as_json", is_flag=True, help="Print the engines as JSON.")
def build_command(folder: Path, engines: "EngineRequest", allow_partial_fusion: bool, as_json: bool) -> None:
    """Add TensorRT engines to the bundle in FOLDER: for this GPU, or for others.

    \b
    rpln build tagger --engine tensorrt
    rpln build tagger --engine tensorrt-rtx --gpu sm89,sm120 --profile batch=1:8:32,sequence=1:128:384
    """
    with user_errors(interrupted="Interrupted: the bundle is whole and can be used."):
        from rpln_export.commands.show.progress import ProgressWatcher

        with ProgressWatcher() as watcher:
            from rpln_export.bundle.engines import build_engines
            from rpln_export.commands.show.engines import print_engines
            from rpln_export.plan.engines import make_engine_plan
            from rpln_export.steps import Steps
            from rpln_runtime.manifest import read_manifest

            plan = make_engine_plan(engines, precision=read_manifest(folder).recipe)
            if plan.backend is None:
                raise click.UsageError(f"nothing to build: {plan.why_not}.")
            with Steps(watcher).step("compile") as advance:
                built = build_engines(plan, folder, advance, allow_partial=allow_partial_fusion)
        if as_json:
            click.echo(json.dumps([dataclasses.asdict(one) for one in built], indent=2))
        else:
            print_engines(built)
