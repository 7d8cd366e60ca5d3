"""Folders that are replaced: processes die at every call, work at once, and find mount points in their way."""

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rpln_runtime import replacing
from rpln_runtime.replacing import contents, partial_folder, place_of, recover
from rpln_runtime.replacing.locks import locked
from rpln_runtime.replacing.mounts import is_mount_point

MARK = "rpln.json"

# In the modes "renamed" and "fixed", stand-ins refuse what some systems refuse: to exchange, and to rename as well.
PUBLISHING = """
import errno, json, os, shutil, signal, sys, time
from pathlib import Path
from rpln_runtime import replacing
from rpln_runtime.replacing import contents, partial_folder, recover

mode, out = sys.argv[1], Path(sys.argv[2])
FILES = ("model.onnx", "engines/a.plan", "rpln.json")

def publish(text, *more):
    with partial_folder(out) as partial:
        (partial.temporary / "copy").write_text(text)
        for name in (*FILES, *more):
            path = partial.new / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        partial.publish(mark="rpln.json")

def files(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}

def refusal(code):
    def refused(one, other):
        raise OSError(code, os.strerror(code))
    return refused

exchange, rename = replacing.exchange, Path.rename
if mode == "renamed":
    replacing.exchange = refusal(errno.ENOSYS)
elif mode == "fixed":
    replacing.exchange = refusal(errno.EXDEV)
    # Nor is anything renamed into it, but for copies that lie in it.
    Path.rename = lambda one, other: (
        refusal(errno.EXDEV) if one == out or (other.parent == out != one.parent) else rename
    )(one, other)
else:
    replacing.exchange = lambda one, other: (sys.audit("exchange"), exchange(one, other))
"""

KILLED_AT_EVERY_CALL = (
    PUBLISHING
    + """
CALLS = {"open", "exchange", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}
OLD, NEW = dict.fromkeys((*FILES, "old.onnx"), "old"), dict.fromkeys(FILES, "new")

def killed_at(point):
    left = iter(range(point))
    def hook(event, arguments):
        if event in CALLS and next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    publish("new")

def what_a_reader_finds():
    if mode != "exchanged" and not (out / "rpln.json").exists():
        recover(out)
    found = files(out) if out.exists() else {}
    return {name: text for name, text in found.items() if not replacing.is_partial(name.split("/")[0])}

found, wrong = [], []
while True:
    if mode == "fresh":
        shutil.rmtree(out, ignore_errors=True)
    else:
        publish("old", "old.onnx")
    if (child := os.fork()) == 0:
        try:
            killed_at(len(found))
        finally:
            os._exit(0)
    died = os.waitpid(child, 0)[1] == signal.SIGKILL
    seen = what_a_reader_finds()
    expected = {"new": NEW, "old": {} if mode == "fresh" else OLD}
    found.append(next((name for name, whole in expected.items() if seen == whole), seen))
    publish("new")
    left = [path.name for path in out.parent.iterdir() if path != out]
    if files(out) != NEW or left:
        wrong.append((len(found), files(out), left))
    if not died:
        break
print(json.dumps([found, wrong]))
"""
)


# What makes the destination a mount point, from the same file system, so that its device tells nothing; and what puts
# it into the lower layer of an overlay, as a folder of a container's image.
MOUNTS = {
    "mounted": "mount --bind place/out place/out",
    "layered": "mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work place",
}


def run(script: str, mode: str, out: Path) -> str:
    """What a script prints. Where the mode mounts something, it does so in a namespace of its own."""
    command = [sys.executable, "-W", "error", "-c", script, mode, str(out)]
    if mode in MOUNTS:
        command = ["unshare", "-rm", "sh", "-c", f'{MOUNTS[mode]} && exec "$@"', "sh", *command]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=out.parent.parent).stdout


def can_mount() -> bool:
    unshare = shutil.which("unshare")
    attempt = [unshare or "", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return unshare is not None and subprocess.run(attempt, check=False, capture_output=True).returncode == 0


MOUNTING = pytest.mark.skipif(not can_mount(), reason="this user may not mount anything in a namespace")
MODES = ["fresh", "exchanged", "renamed", "fixed", *(pytest.param(mode, marks=MOUNTING) for mode in MOUNTS)]


@pytest.mark.parametrize("mode", MODES)
def test_a_reader_finds_the_old_or_the_new_folder_wherever_a_process_dies(tmp_path: Path, mode: str) -> None:
    for name in ("place", "lower", "upper", "work"):
        (tmp_path / name / ("out" if name == "lower" or mode == "mounted" else "")).mkdir(parents=True, exist_ok=True)
    found, wrong = json.loads(run(KILLED_AT_EVERY_CALL, mode, tmp_path / "place" / "out"))
    assert wrong == []  # the next process to publish leaves nothing but its own folder
    turn = found.index("new")
    assert found == ["old"] * turn + ["new"] * (len(found) - turn)
    assert turn > 10


# Each process publishes again and again, and reads what is there in between. Only an exchange leaves no gap.
AT_ONCE = (
    PUBLISHING
    + """
publish("text")
for turn in range(40):
    assert mode != "exchanged" or (out / "rpln.json").exists()
    publish("text")
"""
)


@pytest.mark.parametrize("mode", ["exchanged", "renamed", "fixed"])
def test_processes_at_once_do_not_disturb_each_other(tmp_path: Path, mode: str) -> None:
    command = [sys.executable, "-W", "error", "-c", AT_ONCE, mode, str(tmp_path / "out")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == [""] * 3
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")} == {
        "model.onnx",
        "engines/a.plan",
        "rpln.json",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


WAITING = (
    PUBLISHING
    + """
with partial_folder(out) as partial:
    (partial.new / "rpln.json").write_text("late")
    print(partial.path.name, flush=True)
    sys.stdin.readline()
    partial.publish(mark="rpln.json")
"""
)


@contextmanager
def waiting(out: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that has a partial folder for `out` and publishes it when it is given a line, and the folder's name."""
    command = [sys.executable, "-c", WAITING, "exchanged", str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()


def publish(out: Path, text: str) -> None:
    with partial_folder(out) as partial:
        (partial.new / MARK).write_text(text)
        partial.publish(mark=MARK)


def test_a_process_that_lives_is_left_alone_whatever_its_number_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(pid: int, number: int) -> None:
        raise ProcessLookupError  # as for any process of another container

    out = tmp_path / "out"
    with waiting(out) as (process, name):
        monkeypatch.setattr(os, "kill", unknown)
        publish(out, "first")
        assert {path.name for path in tmp_path.iterdir()} == {"out", name}
        process.communicate("go\n")
    assert process.returncode == 0
    assert (out / MARK).read_text() == "late"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_process_that_was_killed_is_cleaned_up_after_by_any_other(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with waiting(out) as (process, name):
        os.kill(process.pid, signal.SIGKILL)
    assert (tmp_path / name / "new" / MARK).exists()
    publish(out, "next")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folders_that_are_missing_are_made_and_go_where_nothing_is_published(tmp_path: Path) -> None:
    with partial_folder(tmp_path / "a" / "b" / "out") as partial:
        assert partial.path.parent == tmp_path / "a" / "b"
    assert list(tmp_path.iterdir()) == []
    publish(tmp_path / "a" / "b" / "out", "new")
    assert (tmp_path / "a" / "b" / "out" / MARK).read_text() == "new"


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC, errno.ENOENT])
def test_a_system_that_refuses_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    out = tmp_path / "out"
    publish(out, "old")
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(code, os.strerror(code))
        return rename(path, target)

    monkeypatch.setattr(replacing, "exchange", lambda *_: refused(Path("new"), out))
    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match=os.strerror(code)):
        publish(out, "new")
    assert (out / MARK).read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_while_contents_are_replaced_keeps_the_rest_for_the_next_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    publish(out, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refused_to(folder: Path) -> Callable[[Path, Path], Path]:
        rename = Path.rename

        def refused(path: Path, target: Path) -> Path:
            if target.parent == folder:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            return rename(path, target)

        return refused

    monkeypatch.setattr(replacing, "place_of", lambda folder: folder)
    monkeypatch.setattr(shutil, "copy2", full)
    monkeypatch.setattr(Path, "rename", refused_to(out))
    with pytest.raises(OSError, match="No space left"):
        publish(out, "new")
    assert not (out / MARK).exists()
    monkeypatch.undo()
    recover(out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {MARK: "new"}


def test_a_folder_without_a_lock_is_nobodys_and_removed_only_when_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / ".out.0123abcd.partial").mkdir()
    (tmp_path / ".out.4567cdef.partial" / "letters").mkdir(parents=True)
    recover(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [".out.4567cdef.partial"]
    assert contents(tmp_path) == []


def test_a_lock_lets_one_process_in_at_a_time_and_leaves_no_file(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from rpln_runtime.replacing.locks import locked
for turn in range(200):
    with locked(Path(sys.argv[1]) / ".out.lock"):
        alone = Path(sys.argv[1]) / "alone"
        alone.mkdir()
        alone.rmdir()
"""
    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_anywhere_lets_the_same_process_publish_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(out, "old")
    for calls in itertools.count():
        left = iter(range(calls))
        with pytest.MonkeyPatch.context() as monkeypatch:
            for name in ("mkdir", "rename", "rmdir", "unlink"):
                monkeypatch.setattr(Path, name, interrupted_when_none(left, getattr(Path, name)))
            try:
                publish(out, "new")
                break
            except KeyboardInterrupt:
                assert (out / MARK).read_text() in {"old", "new"}
        publish(out, "old")
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert calls > 8


def interrupted_when_none(left: Iterator[int], call: Callable[..., Any]) -> Callable[..., Any]:
    def interrupted(*arguments: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return call(*arguments, **options)

    return interrupted


def test_a_file_system_without_locks_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    out = tmp_path / "out"
    with waiting(out) as (process, name):
        monkeypatch.setattr("rpln_runtime.replacing.locks.fcntl.flock", refused)
        with locked(tmp_path / ".other.lock"):
            publish(out, "first")
        assert {path.name for path in tmp_path.iterdir()} == {"out", name}
        process.communicate("go\n")
    assert (out / MARK).read_text() == "late"


def test_mount_points_are_those_of_the_systems_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    volume = tmp_path / "my volume"
    name = str(volume).replace(" ", "\\040")
    table.write_text(f"36 35 254:0 / / rw - ext4 /dev/vda rw\n37 36 254:0 /there {name} rw - ext4 /dev/vda rw\n")
    monkeypatch.setattr("rpln_runtime.replacing.mounts._MOUNTS", table)
    assert is_mount_point(volume)
    assert not is_mount_point(tmp_path)
    assert place_of(volume) == volume
    table.unlink()
    assert is_mount_point(Path("/"))
    assert not is_mount_point(volume)
