"""Settings for all tests: the hub is never asked, torch uses one thread, and traces of networks are cached."""

import os
import signal
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from tests.sharing import shared_folder

# These are set before anything imports transformers or torch. Several threads would compete for two cores.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

_HAS_GPU = Path("/proc/driver/nvidia/version").exists()
_HAS_OPTIMUM = any(Distribution.discover(name="optimum-onnx"))

# `make test` runs tests/optimum in its second environment, because optimum-onnx refuses transformers 5.
collect_ignore = [] if _HAS_OPTIMUM else ["optimum"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--refresh-golden", action="store_true", help="write the golden graphs anew instead of comparing")
    parser.addoption("--anew", action="store_true", help="use nothing that was made before; trace whenever asked to")


def pytest_report_header() -> list[str]:
    return (
        []
        if _HAS_OPTIMUM
        else ["tests/optimum is skipped: it runs in the environment with optimum-onnx (transformers 4.57)"]
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if _HAS_GPU:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA driver: /proc/driver/nvidia/version does not exist"))


@pytest.fixture(scope="session")
def kept_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that later runs find again, in .pytest_cache; with --anew, a folder for this run alone."""
    cache = getattr(request.config, "cache", None)  # None with -p no:cacheprovider
    if cache is None or request.config.getoption("--anew"):
        return shared_folder(tmp_path_factory) / "kept"
    return Path(cache.mkdir("kept"))


@pytest.fixture(scope="session", autouse=True)
def _traces_are_kept(request: pytest.FixtureRequest, kept_folder: Path) -> Iterator[None]:
    """Take traces of networks from the cache, unless --anew is given."""
    if request.config.getoption("--anew"):
        yield
        return
    from tests.trace_cache import traces_from

    with traces_from(kept_folder / "traces"):
        yield


@pytest.fixture
def refresh_golden(request: pytest.FixtureRequest) -> bool:
    """Return whether the golden files are to be written anew."""
    return bool(request.config.getoption("--refresh-golden"))


@pytest.fixture(autouse=True)
def _same_signals() -> Iterator[None]:
    """The commands take SIGTERM and SIGHUP for interrupts; the test run itself does not.

    Where it runs in the background or under nohup, SIGINT and SIGHUP are ignored, and the commands of tests would
    inherit that.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in handlers.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
