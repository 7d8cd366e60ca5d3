"""Runs transformers' common model tests on its classes and on ours, and compares; see `make test-transformers`.

The tests come from the source distribution of the installed version. pip fetches it into a folder outside of the
repository, with the packages that the tests import. The distribution lacks two modules that they import, of generation
and of exporters; here these are empty.
"""

import argparse
import fnmatch
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from tests.transformers_common.exceptions import EXCEPTIONS

# The outcome of a test, by architecture and the name of the test.
Outcomes = Mapping[tuple[str, str], str]

THEIRS, OURS = "transformers", "rpln_model"
PASSED, SKIPPED, FAILED = OUTCOMES = ("passed", "skipped", "failed")

# Packages that the tests import, or are skipped without. What these require is installed.
_PACKAGES: Final = ("accelerate==1.15.0", "parameterized==0.9.0", "peft==0.21.2", "psutil==7.2.2")
_MISSING: Final = {
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
}
_REPOSITORY: Final = Path(__file__).parents[2]
_PIP: Final = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def main() -> None:
    """Fetch what is missing, run both, print the differences, and exit with 1 if there are any."""
    options = _parse_options()
    installed = version("transformers")
    folder = options.folder / f"transformers-{installed}"
    if not folder.is_dir():
        _fetch(installed, folder)
    theirs, ours = (_outcomes(package, folder, processes=options.processes) for package in (THEIRS, OURS))
    passing = [test for test, outcome in theirs.items() if outcome == PASSED]
    both = sum(ours.get(test) == PASSED for test in passing)
    print(f"transformers {installed}: {len(passing)} tests pass on its classes, {both} of these on ours.")
    complaints = list(compared(theirs, ours, line=int(installed.split(".")[0])))
    print("\n".join(complaints or [f"The {len(passing) - both} others are exceptions, all of which are needed."]))
    sys.exit(bool(complaints))


def compared(theirs: Outcomes, ours: Outcomes, *, line: int) -> Iterator[str]:
    """Yield a sentence for each test that passes on their classes alone, and for each exception that is not needed.

    Tests in EXCEPTIONS are passed over. `line` is the major version of transformers.
    """
    lost = [test for test, outcome in theirs.items() if outcome == PASSED and ours.get(test) != PASSED]
    rows = [row for row in EXCEPTIONS if line in row.lines]
    for architecture, name in sorted(lost):
        if not any(fnmatch.fnmatchcase(name, row.tests) for row in rows):
            outcome = ours.get((architecture, name), "missing")
            yield f"{architecture}: {name} passes on transformers' class; on ours it is {outcome}."
    for row in rows:
        if not any(fnmatch.fnmatchcase(name, row.tests) for _, name in lost):
            yield f"{row.tests} is an exception for transformers {line} that is not needed. Remove it."


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run transformers' common model tests on its classes and on ours.")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "rpln-transformers-tests",
        help="Where the tests are kept between runs (default: %(default)s).",
    )
    parser.add_argument("--processes", type=int, default=2, help="How many run at a time (default: %(default)s).")
    return parser.parse_args()


def _fetch(installed: str, folder: Path) -> None:
    """Make `folder`: the package `transformers_tests`, and `packages` with what it imports."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "made"
        download = ["download", "--no-deps", "--no-build-isolation", "--no-binary", "transformers"]
        subprocess.run([*_PIP, *download, "--dest", temporary, f"transformers=={installed}"], check=True)
        subprocess.run([*_PIP, "install", "--no-deps", "--target", made / "packages", *_PACKAGES], check=True)
        with tarfile.open(Path(temporary) / f"transformers-{installed}.tar.gz") as archive:
            archive.extractall(temporary, filter="data")
        tests = (Path(temporary) / f"transformers-{installed}" / "tests").rename(made / "transformers_tests")
        for name, content in _MISSING.items():
            (tests / name).parent.mkdir(exist_ok=True)
            (tests / name).write_text(content)
        (made / "pytest.ini").write_text(
            "[pytest]\n"
        )  # the repository's settings would turn their warnings into errors
        made.rename(folder)


def _outcomes(package: str, folder: Path, *, processes: int) -> Outcomes:
    """Run the suite on the classes of `package`, and return its outcomes."""
    report, log = folder / f"{package}.xml", folder / f"{package}.log"
    paths = [_REPOSITORY, folder, folder / "packages", *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {
        "PYTHONPATH": os.pathsep.join(str(path) for path in paths if str(path)),
        "RPLN_CLASSES_OF": package,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    options = ["--import-mode=importlib", "-p", "no:randomly", "-p", "no:cacheprovider", "--numprocesses", processes]
    command = [sys.executable, "-m", "pytest", "-c", folder / "pytest.ini", "--rootdir", _REPOSITORY, *options]
    suite = Path(__file__).with_name("suite.py")
    with log.open("w") as stream:
        code = subprocess.run(
            [*map(str, command), f"--junitxml={report}", str(suite)],
            cwd=_REPOSITORY,
            env=os.environ | environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if code > 1:  # 1 means that tests have failed
        sys.exit(f"The tests could not be run on the classes of {package}: see {log}.")
    return outcomes_from_report(report)


def outcomes_from_report(report: Path) -> Outcomes:
    """Return the outcome of each test in a JUnit file. With subtests, it is the worst."""
    found: dict[tuple[str, str], str] = {}
    for case in ET.parse(report).iter("testcase"):
        failed = case.find("failure") is not None or case.find("error") is not None
        outcome = FAILED if failed else SKIPPED if case.find("skipped") is not None else PASSED
        test = (case.attrib["classname"].rpartition(".Test")[2], case.attrib["name"])
        found[test] = max(found.get(test, PASSED), outcome, key=OUTCOMES.index)
    return found


if __name__ == "__main__":
    main()
