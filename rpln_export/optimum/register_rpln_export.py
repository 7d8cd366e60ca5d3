"""Lets `optimum-cli export onnx` know roberta-prelayernorm, as soon as rpln-export is installed beside Optimum.

An installation has this file as optimum/commands/register/register_rpln_export.py (pyproject.toml says so), because
`optimum-cli` imports all files of that folder when it starts, whatever distribution they belong to. Only `optimum-cli
export onnx` pays for importing torch and transformers; other commands of `optimum-cli` start as quickly as before.
"""

import importlib.util
from typing import Any


def register_before_exports() -> None:
    """Make `optimum-cli export onnx` import rpln_export.optimum before it runs."""
    from optimum.commands.export.onnx import ONNXExportCommand

    run = ONNXExportCommand.run

    def run_with_configs(command: Any) -> None:
        importlib.import_module("rpln_export.optimum")
        run(command)

    ONNXExportCommand.run = run_with_configs


# Optimum's ONNX part is a distribution of its own, optimum-onnx.
if importlib.util.find_spec("optimum.commands.export.onnx"):
    register_before_exports()
