"""What an import brings in, seen by an interpreter that has imported nothing else."""

import json
import subprocess
import sys

FORBIDDEN_TO_THE_RUNTIME = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "click"}


def modules_after(statement: str) -> set[str]:
    """Names of the top-level modules that `statement` brings in; warnings are errors there too."""
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
    # CPU time and the best of three: a busy machine makes it no slower.
    command = [sys.executable, "-c", SECONDS]
    seconds = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(3)]
    assert min(seconds) < 0.3
