"""What an import loads, measured in a new interpreter."""

import json
import subprocess
import sys

FORBIDDEN_TO_THE_RUNTIME = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "click"}


def modules_after(statement: str) -> set[str]:
    """Return the names of the top-level modules that `statement` imports. Warnings are errors."""
    code = f"import sys; {statement}; print('\\n'.join({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_runtime_brings_in_no_torch() -> None:
    modules = modules_after("import rpln_runtime")
    assert {"rpln_runtime", "numpy"} <= modules
    assert modules & FORBIDDEN_TO_THE_RUNTIME == set()


SECONDS = """
import json, time
import numpy, onnxruntime
start = time.process_time()
import rpln_runtime
print(json.dumps(time.process_time() - start))
"""


def test_the_runtime_imports_quickly() -> None:
    # A busy machine does not change the best CPU time of three runs.
    command = [sys.executable, "-c", SECONDS]
    seconds = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(3)]
    assert min(seconds) < 0.3
