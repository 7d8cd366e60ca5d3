"""The example for Kubernetes: its documents fit together, and its flags, models and paths exist."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rpln_runtime.triton.parts import batching

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"


@pytest.fixture(scope="module")
def documents() -> dict[tuple[str, str], Any]:
    found = list(yaml.safe_load_all((DEPLOY / "triton.yaml").read_text()))
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def test_the_documents_fit_together(documents: dict[tuple[str, str], Any]) -> None:
    deployment = documents["Deployment", "tagger"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    (container,) = deployment["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for (kind, _), document in documents.items():
        if kind == "Service":
            assert document["spec"]["selector"] == labels
            assert all(port["port"] == ports[port["targetPort"]] for port in document["spec"]["ports"])
    assert container["startupProbe"]["httpGet"]["port"] in ports
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in deployment["template"]["spec"]["volumes"]}
    scaler = documents["HorizontalPodAutoscaler", "tagger"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == "tagger"
    (metric,) = scaler["metrics"]
    rules = documents["ConfigMap", "tagger-adapter-rules"]["data"]["rules.yaml"]
    assert f"name: {{as: {metric['pods']['metric']['name']}}}" in rules


def test_strangers_reach_the_ensemble_alone_and_with_small_bodies(documents: dict[tuple[str, str], Any]) -> None:
    ingress, policy = documents["Ingress", "tagger"], documents["NetworkPolicy", "tagger"]["spec"]
    prefix = "nginx.ingress.kubernetes.io"
    limits = {f"{prefix}/proxy-body-size": "1m", f"{prefix}/proxy-read-timeout": "95"}
    assert ingress["metadata"]["annotations"] == limits
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert (path["path"], path["pathType"]) == ("/v2/models/tagger/infer", "Exact")
    service = documents["Service", path["backend"]["service"]["name"]]["spec"]
    assert path["backend"]["service"]["port"]["name"] in [port["name"] for port in service["ports"]]
    pod = documents["Deployment", "tagger"]["spec"]["template"]
    assert policy["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
    (container,) = pod["spec"]["containers"]
    ports = {rule["ports"][0]["port"]: rule.get("from") for rule in policy["ingress"]}
    assert ports.keys() == {port["name"] for port in container["ports"]}
    assert all(ports[name] for name in ("http", "grpc"))


def test_probes_ask_a_question_and_restart_a_server_within_a_minute(documents: dict[tuple[str, str], Any]) -> None:
    (container,) = documents["Deployment", "tagger"]["spec"]["template"]["spec"]["containers"]
    ready, live = container["readinessProbe"], container["livenessProbe"]
    path, url, body = ready["exec"]["command"]
    assert live["exec"]["command"][3:] == [url, body]
    assert f"COPY docs/deploy/{path[1:]} {path}" in (DEPLOY / "Dockerfile").read_text()
    assert url == "http://localhost:8000/v2/models/tagger/infer"
    assert json.loads(body)["inputs"][0]["data"] == ["TEXT"]
    # A dead step is told in a second.
    assert (live["periodSeconds"] + 1) * live["failureThreshold"] + live["terminationGracePeriodSeconds"] <= 60
    healthcheck = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["triton"]["healthcheck"]
    assert f"{path} {url} '{body}'" in healthcheck["test"][1]
    # The probe's last question begins after at most 4 s.
    longest = 4 + int(re.findall(r"--max-time (\d+)", (DEPLOY / path[1:]).read_text())[0])
    assert longest < min(ready["timeoutSeconds"], live["timeoutSeconds"], int(healthcheck["timeout"][:-1]))


@pytest.mark.parametrize(("code", "ready", "lives"), [(0, True, True), (1, False, False), (2, False, True)])
def test_a_server_that_refuses_the_question_is_not_ready_and_not_started_again(
    documents: dict[tuple[str, str], Any], tmp_path: Path, *, code: int, ready: bool, lives: bool
) -> None:
    probe, killed = tmp_path / "probe.sh", tmp_path / "killed"
    probe.write_text(f"#!/bin/sh\n[ $# -eq 2 ] || exit 9\nexit {code}\n")
    probe.chmod(0o755)
    (container,) = documents["Deployment", "tagger"]["spec"]["template"]["spec"]["containers"]
    asked = [container[name]["exec"]["command"] for name in ("readinessProbe", "livenessProbe")]
    healthcheck = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["triton"]["healthcheck"]
    # Docker Compose reads $$ as $. The server's own endpoint, which is asked first, stands still here.
    check = healthcheck["test"][1].replace("$$", "$").replace("kill 1", f"touch {killed}")
    own, _, rest = check.partition("; ")
    assert own.startswith("curl ")
    assert [
        subprocess.run([part.replace("/probe.sh", str(probe)) for part in command], check=False).returncode == 0
        for command in (*asked, ["sh", "-c", rest])
    ] == [ready, lives, ready]
    assert killed.exists() != lives


def test_a_server_has_time_to_finish(documents: dict[tuple[str, str], Any]) -> None:
    pod = documents["Deployment", "tagger"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    sleep = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    timeout, age = (
        int(re.findall(rf"{flag}=(\d+)", dockerfile)[0])
        for flag in ("--exit-timeout-secs", "--grpc-max-connection-age")
    )
    # gRPC spreads the ends of connections by a tenth of their age.
    wait = batching()["default_queue_policy"]["default_timeout_microseconds"] / 1_000_000
    assert 1.1 * age / 1000 + wait < sleep < sleep + timeout < pod["terminationGracePeriodSeconds"]


def test_alerts_ask_for_metrics_of_the_steps(documents: dict[tuple[str, str], Any]) -> None:
    """tests/triton/test_faults.py shows on the server that these labels count what the alerts say."""
    (group,) = yaml.safe_load(documents["ConfigMap", "tagger-alert-rules"]["data"]["rules.yaml"])["groups"]
    asked = [
        'nv_inference_request_failure{model=~"tagger_.+",reason="BACKEND"}',
        'nv_inference_pending_request_count{model=~"tagger_.+"}',
    ]
    assert all(metric in rule["expr"] for metric, rule in zip(asked, group["rules"], strict=True))
