"""The containers of docs/deploy: linters read the Dockerfiles and the compose file, and what these name exists.

No Docker engine is needed. docs/containers.md says what was run by hand.
"""

import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from rpln_runtime.__main__ import _parser

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs/deploy"
DOCKERFILES = [DEPLOY / "Dockerfile", DEPLOY / "Dockerfile.runtime"]
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent))
EVERY_DOCKERFILE = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)


@pytest.fixture(scope="module")
def compose_file() -> str:
    """Return the compose file, with the defaults of its variables in their places."""
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.fixture(scope="module")
def services(compose_file: str) -> dict[str, Any]:
    return dict(yaml.safe_load(compose_file)["services"])


@pytest.mark.skipif(HADOLINT is None, reason='no hadolint: pip install "rpln-export[docs]"')
@EVERY_DOCKERFILE
def test_the_linter_has_nothing_to_warn_of(dockerfile: Path) -> None:
    assert HADOLINT is not None
    command = [HADOLINT, "--failure-threshold", "warning", "--no-color", str(dockerfile)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_compose_file_keeps_to_the_specification(compose_file: str) -> None:
    compose = pytest.importorskip("compose_spec", reason='no compose-spec: pip install "rpln-export[docs]"').PyCompose
    compose.from_yaml(compose_file).validate()
    with pytest.raises(ValueError, match="shm_sise"):
        compose.from_yaml(compose_file.replace("shm_size", "shm_sise"))


@EVERY_DOCKERFILE
def test_what_is_copied_is_in_the_context(dockerfile: Path) -> None:
    copied = [name for words in instructions(dockerfile, "COPY") for name in words.split()[:-1]]
    made = {"dist/rpln_runtime-*.whl", "repository"}  # by make wheels, and by rpln triton
    kept = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert copied
    for name in copied:
        assert name in made or (ROOT / name).is_file()
        assert any(fnmatch(name, pattern) for pattern in kept)


def test_the_entry_and_the_command_are_those_of_the_runtime(services: dict[str, Any]) -> None:
    (entry,) = instructions(DEPLOY / "Dockerfile.runtime", "ENTRYPOINT")
    assert re.findall(r'"([^"]+)"', entry) == ["python", "-m", "rpln_runtime"]
    chosen = _parser().parse_args(services["batch"]["command"])
    mounts = [volume.split(":")[1] for volume in services["batch"]["volumes"]]
    assert mounts == [chosen.folder, str(Path(chosen.source).parent)]
    assert Path(chosen.source).parent == Path(chosen.output).parent


def test_services_are_built_of_what_there_is(services: dict[str, Any]) -> None:
    built = [service for service in services.values() if "build" in service]
    assert len(built) == len(DOCKERFILES)
    for service in built:
        context = DEPLOY / service["build"]["context"]
        assert context.resolve() == ROOT
        assert (context / service["build"]["dockerfile"]).is_file()


def test_strangers_reach_the_ensemble_alone_and_with_small_bodies(services: dict[str, Any]) -> None:
    proxy = services["proxy"]
    (source, target, mode) = proxy["volumes"][0].split(":")
    assert (target, mode) == ("/etc/nginx/conf.d/default.conf", "ro")
    conf = re.sub("#.*", "", (DEPLOY / source).read_text(encoding="utf-8"))
    assert f":{conf.split('listen ')[1].partition(';')[0]}" in proxy["ports"][0]
    assert "client_max_body_size 1m;" in conf
    assert "if ($http_content_encoding) { return 415; }" in conf
    open_ = re.findall(r"location = (\S+) { proxy_pass http://triton:8000; }", conf)
    assert open_ == ["/v2/models/tagger/infer", "/v2/models/tagger", "/v2/health/ready"]
    assert re.findall(r"location (?!=)(.*)", conf) == ["/ { return 404; }"]
    assert all(port.startswith("127.0.0.1:") for port in services["triton"]["ports"])


def test_a_server_has_time_to_finish(services: dict[str, Any]) -> None:
    (entry,) = instructions(DEPLOY / "Dockerfile", "ENTRYPOINT")
    (timeout,) = re.findall(r"--exit-timeout-secs=(\d+)", entry)
    assert int(timeout) < int(services["triton"]["stop_grace_period"].removesuffix("s"))


def instructions(dockerfile: Path, name: str) -> list[str]:
    """Return what follows the instructions called `name`."""
    return re.findall(rf"^{name} (.*)$", dockerfile.read_text(encoding="utf-8"), re.MULTILINE)
