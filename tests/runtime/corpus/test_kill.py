"""A run that dies by SIGKILL is continued by the same command."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rpln_runtime.corpus import run_corpus
from tests.runtime.bundles import CORPUS, Bundle

# A kill comes before and after every call that puts something on disk.
KILLED_AT_EVERY_STEP = """
import json, os, signal, sys
from functools import partial
from pathlib import Path
from rpln_runtime.corpus.run import answer_file, answer_windows
from rpln_runtime.postprocess.base import TEXT_FIELD

os.chdir(sys.argv[1])
Path("in").write_text("".join(json.dumps({"text": "x" * n}) + "\\n" for n in range(1, 8)))

def run(output):
    answers = partial(answer_windows, answer=lambda items: [len(item) for item in items], fields=[TEXT_FIELD])
    answer_file(Path("in"), output, answers, run={}, window=3, on_error="stop", on_progress=lambda *_: None)

def killed_at(point, output):
    calls = 0
    def counted(call):
        def counting(*arguments):
            nonlocal calls
            for moment in ("before", "after"):
                if moment == "after":
                    found = call(*arguments)
                if calls == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls += 1
            return found
        return counting
    for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
        setattr(owner, name, counted(getattr(owner, name)))
    run(output)

run(Path("expected"))
points = []
while True:
    output = Path(f"out{len(points)}")
    if (child := os.fork()) == 0:
        killed_at(len(points), output)
        os._exit(0)
    if os.waitpid(child, 0)[1] != signal.SIGKILL:
        break
    left = sorted(path.suffix for path in Path().glob(f"{output}*"))
    if left != [""]:  # otherwise it died after everything was done
        run(output)
    same = output.read_bytes() == Path("expected").read_bytes()
    points.append([left, same, sorted(path.suffix for path in Path().glob(f"{output}*"))])
print(json.dumps(points))
"""


def test_a_run_killed_at_any_step_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(tmp_path)]
    points = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    # The calls: the journal's first line, part and journal of three windows, the rename, the removal of the journal.
    assert len(points) == 2 * (1 + 3 * 2 + 1 + 1)
    assert [left for left, _, _ in points] == [
        [".journal"],
        [".journal"],
        *([[".journal", ".part"]] * 13),
        *([["", ".journal"]] * 2),
        [""],
    ]
    assert all(same and rest == [""] for _, same, rest in points)


def test_a_command_killed_again_and_again_ends_with_the_same_output(
    bundle_of: Callable[..., Bundle], tmp_path: Path
) -> None:
    folder = bundle_of("token-classification").folder
    source, output, journal = (tmp_path / name for name in ("in", "out", "out.journal"))
    source.write_text(
        "".join(json.dumps({"id": n, "text": CORPUS[n % 4] * (1 + n % 3)}) + "\n" for n in range(400)),
    )
    run_corpus(folder, source, tmp_path / "expected", window=4)
    command = [sys.executable, "-W", "error", "-m", "rpln_runtime", "batch", *map(str, (folder, source, output))]
    command += ["--window", "4"]
    lengths = []
    for more in (0, 1, 3000, 6000):  # in bytes; a window adds some 150 to the journal
        reached = more + (journal.stat().st_size if journal.exists() else 0)
        with subprocess.Popen(command) as process:
            while not (journal.exists() and journal.stat().st_size >= reached):
                assert process.poll() is None
                time.sleep(0.001)
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        lengths.append(len(journal.read_bytes().splitlines()))
    assert lengths == sorted(set(lengths))
    assert not output.exists()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == f"{output}: 400 lines, 0 of them errors\n"
    assert output.read_bytes() == (tmp_path / "expected").read_bytes()
    assert [json.loads(line)["id"] for line in output.read_text().splitlines()] == list(range(400))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "in", "out"]
