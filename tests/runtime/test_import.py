import subprocess
import sys
from collections.abc import Callable

from tests.runtime.bundles import CORPUS, Bundle

HEAVY = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "click"}
LAZY = {"onnxruntime", "tokenizers"}
IN_TRITON = ("rpln_runtime.triton.steps.",)
"""The imports of Triton's python backend, which has a module of its own."""


def modules_after(code: str) -> set[str]:
    """Return the top-level modules of a fresh interpreter that ran `code`, with warnings as errors."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, capture_output=True, text=True)
    assert run.stderr == ""
    return set(run.stdout.splitlines()[-1].split())


def test_importing_is_light() -> None:
    assert not modules_after("import rpln_runtime") & (HEAVY | LAZY)


def test_every_module_is_light() -> None:
    code = "import pkgutil, importlib, rpln_runtime\n"
    code += "for module in pkgutil.walk_packages(rpln_runtime.__path__, 'rpln_runtime.'):\n"
    code += f"    module.name.startswith({IN_TRITON}) or importlib.import_module(module.name)"
    assert not modules_after(code) & (HEAVY | LAZY)


def test_answering_needs_no_torch_and_prints_nothing(bundle_of: Callable[..., Bundle]) -> None:
    folder = bundle_of("token-classification").folder
    modules = modules_after(f"import rpln_runtime; assert rpln_runtime.pipeline({str(folder)!r})({CORPUS[0]!r})")
    assert modules >= LAZY
    assert not modules & HEAVY


def test_public_names_exist() -> None:
    import rpln_runtime

    assert all(hasattr(rpln_runtime, name) for name in rpln_runtime.__all__)
    assert rpln_runtime.__version__ == "0.1.0"
