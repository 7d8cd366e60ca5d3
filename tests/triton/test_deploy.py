"""The example for Kubernetes: its documents fit together, and its flags, models and paths exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

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
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in deployment["template"]["spec"]["volumes"]}
    scaler = documents["HorizontalPodAutoscaler", "tagger"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == "tagger"
    (metric,) = scaler["metrics"]
    rules = documents["ConfigMap", "tagger-adapter-rules"]["data"]["rules.yaml"]
    assert f"name: {{as: {metric['pods']['metric']['name']}}}" in rules


def test_strangers_reach_the_ensemble_alone_and_with_small_bodies(documents: dict[tuple[str, str], Any]) -> None:
    ingress, policy = documents["Ingress", "tagger"], documents["NetworkPolicy", "tagger"]["spec"]
    assert ingress["metadata"]["annotations"] == {"nginx.ingress.kubernetes.io/proxy-body-size": "1m"}
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


def test_a_server_has_time_to_finish(documents: dict[tuple[str, str], Any]) -> None:
    pod = documents["Deployment", "tagger"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    sleep = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    (timeout,) = re.findall(r"--exit-timeout-secs=(\d+)", (DEPLOY / "Dockerfile").read_text())
    assert sleep + int(timeout) < pod["terminationGracePeriodSeconds"]
