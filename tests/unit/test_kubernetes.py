"""The Kubernetes manifests, as kustomize renders them: right for Kubernetes, and right for what we run in them."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
from starlette.routing import Route

from gptoss_adapter.app import create_app
from gptoss_backend.environment import ENV_PREFIX
from gptoss_backend.settings import DNS_SCHEME, PROJECT_ROOT, Settings, SettingsError
from gptoss_backend.settings_sources import load_settings
from gptoss_client.addresses import Addresses
from support.fake_model_server import FakeModelServer
from support.manifests import (
    BASE,
    README,
    VARIANTS,
    Document,
    Workload,
    containers,
    environment_in,
    image_user,
    matches,
    of_kind,
    render,
    settings_in,
    workload,
    workloads,
)

# the first that knows a pod's preStop sleep without a feature gate, and the newest that the schemas' package holds
KUBERNETES_VERSIONS = ("1.30", "1.37")
OPERATORS = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "LeaderWorkerSet"}

each_variant = pytest.mark.parametrize("variant", VARIANTS)


# --- what Kubernetes asks for ---------------------------------------------------------------------------------------


def built_in(document: Document) -> Iterator[Document]:
    """Return the document, or what of Kubernetes' own is inside an operator's, whose schema is not at hand."""
    if document["kind"] not in OPERATORS:
        yield document
    metadata = {"name": document["metadata"]["name"]}
    if document["kind"] == "LeaderWorkerSet":
        group = document["spec"]["leaderWorkerTemplate"]
        for template in (group["leaderTemplate"], group["workerTemplate"]):
            yield {"apiVersion": "v1", "kind": "PodTemplate", "metadata": metadata, "template": template}
        for claim in group["volumeClaimTemplates"]:
            yield {"apiVersion": "v1", "kind": "PersistentVolumeClaim"} | claim
    if document["kind"] == "ScaledObject":
        spec = document["spec"]
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        made = {"scaleTargetRef": spec["scaleTargetRef"], "maxReplicas": spec["maxReplicaCount"], "behavior": behavior}
        yield {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata, "spec": made}


@each_variant
@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_manifests_when_held_against_kubernetes_schemas_then_each_is_valid(variant: str, version: str) -> None:
    for document in render(variant):
        for part in built_in(document):
            kubernetes_validate.validate(part, version, strict=True)


def test_schemas_when_a_field_is_misspelt_then_they_refuse_it() -> None:
    document = copy.deepcopy(workload(BASE, "triton").owner)
    document["spec"]["template"]["spec"]["terminationGracePeriod"] = 90

    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(document, KUBERNETES_VERSIONS[0], strict=True)


def selectors(document: Document) -> Iterator[Document]:
    """Return what a document selects pods of its own namespace by."""
    spec = document["spec"]
    if document["kind"] == "Service":
        yield {"matchLabels": spec["selector"]}
    elif document["kind"] == "NetworkPolicy":
        yield spec["podSelector"]
        sources = [source for rule in spec["ingress"] for source in rule.get("from", [])]
        yield from (source["podSelector"] for source in sources if "namespaceSelector" not in source)
    elif document["kind"] in ("PodDisruptionBudget", "Deployment", "StatefulSet"):
        yield spec["selector"]


@each_variant
def test_manifests_when_they_select_pods_then_there_are_such_pods(variant: str) -> None:
    for document in render(variant):
        for selector in selectors(document) if "spec" in document else ():
            assert any(matches(selector, one.labels) for one in workloads(variant)), (document["kind"], selector)
    for one in workloads(variant):
        for spread in one.pod["topologySpreadConstraints"]:
            assert matches(spread["labelSelector"], one.labels)


@each_variant
def test_manifests_when_they_name_a_port_then_the_pods_they_select_have_it(variant: str) -> None:
    for document in of_kind(variant, "Service") + of_kind(variant, "NetworkPolicy"):
        spec = document["spec"]
        is_service = document["kind"] == "Service"
        rules = [] if is_service else [port for rule in spec["ingress"] for port in rule.get("ports", [])]
        named = {port["targetPort"] for port in spec["ports"]} if is_service else {port["port"] for port in rules}
        selector = next(selectors(document))
        served = [one for one in workloads(variant) if matches(selector, one.labels) and "ports" in one.container]
        assert served
        for one in served:
            assert named <= {port["name"] for port in one.container["ports"]}


@each_variant
def test_manifests_when_they_name_a_config_map_a_volume_or_a_secret_then_somebody_makes_it(variant: str) -> None:
    for one in workloads(variant):
        claims = one.owner["spec"].get("volumeClaimTemplates", [])
        claims += one.owner["spec"].get("leaderWorkerTemplate", {}).get("volumeClaimTemplates", [])
        volumes = {volume["name"] for volume in one.pod["volumes"]} | {claim["metadata"]["name"] for claim in claims}
        for container in one.pod["containers"] + one.pod.get("initContainers", []):
            environment_in(variant, one.service, container)  # which finds its ConfigMaps or raises
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert all(f"create secret generic {secret} " in README for secret in secrets(one))


def secrets(one: Workload) -> set[str]:
    mounted = {volume["secret"]["secretName"] for volume in one.pod["volumes"] if "secret" in volume}
    sources = [variable.get("valueFrom", {}) for variable in one.container.get("env", [])]
    return mounted | {source["secretKeyRef"]["name"] for source in sources if source}


# --- what our processes ask for -------------------------------------------------------------------------------------


@each_variant
def test_pods_when_their_variables_are_read_then_each_is_a_setting_and_both_sides_serve_the_same(variant: str) -> None:
    seen = [settings_in(variant, one, container) for one, container in containers(variant)]

    assert len({settings.served_models for settings in seen}) == 1
    assert len({(settings.server.grpc_port, settings.server.metrics_port) for settings in seen}) == 1


@each_variant
def test_pods_when_kubernetes_would_add_variables_for_services_then_they_refuse_them(variant: str) -> None:
    service = next(iter(of_kind(variant, "Service")))["metadata"]["name"]
    added = f"{service.upper().replace('-', '_')}_PORT"

    assert added.startswith(ENV_PREFIX)
    with pytest.raises(SettingsError):
        load_settings(environ={added: "tcp://10.0.0.1:8001"})
    for one in workloads(variant):
        assert one.pod["enableServiceLinks"] is False


@each_variant
def test_pods_when_they_listen_then_it_is_where_their_settings_say(variant: str) -> None:
    for one in workloads(variant):
        server = settings_in(variant, one).server
        of_triton = {"grpc": server.grpc_port, "metrics": server.metrics_port, "http": server.http_port}
        listening = of_triton if one.service == "triton" else {"http": server.port}
        if one.role != "worker":
            assert {port["name"]: port["containerPort"] for port in one.container["ports"]} == listening
            assert (server.triton_host if one.service == "triton" else server.host) == "0.0.0.0"


@each_variant
def test_adapter_when_it_looks_for_triton_then_it_is_told_of_every_replica(variant: str) -> None:
    server = settings_in(variant, workload(variant, "adapter")).server
    assert server.triton_replicas is not None
    (name,) = (
        target.removeprefix(DNS_SCHEME).removesuffix(f":{server.grpc_port}") for target in server.triton_replicas
    )
    (service,) = (one for one in of_kind(variant, "Service") if one["metadata"]["name"] == name)

    assert service["spec"]["clusterIP"] == "None"
    assert {port["name"]: port["port"] for port in service["spec"]["ports"]} == {
        "grpc": server.grpc_port,
        "metrics": server.metrics_port,
    }
    assert not service["spec"].get("publishNotReadyAddresses", False)


@each_variant
def test_triton_when_a_gpu_is_its_own_then_the_variant_of_its_config_is_no_guess(variant: str) -> None:
    for one in workloads(variant):
        if one.service != "triton":
            continue
        gpus = one.container["resources"]["limits"].get("nvidia.com/gpu", 0)
        settings = settings_in(variant, one)
        expected = None if not gpus else "spread" if settings.placement.num_nodes > 1 else "replicas"
        assert settings.server.triton_config_name == expected


@each_variant
def test_settings_when_they_are_the_adapters_then_a_change_of_them_loads_no_model_anew(variant: str) -> None:
    for one, container in containers(variant):
        read = {name for name in environment_in(variant, one.service, container) if name.startswith("GPTOSS_ADAPTER__")}
        assert bool(read) == (one.service == "adapter")


@each_variant
def test_adapter_when_triton_takes_its_time_to_be_ready_then_its_rollout_is_not_given_up(variant: str) -> None:
    deployment = workload(variant, "adapter").owner
    for one in workloads(variant):
        if one.service == "triton" and one.role != "worker":
            probe = one.container["startupProbe"]
            loading_s = probe["periodSeconds"] * probe["failureThreshold"]
            assert deployment["spec"]["progressDeadlineSeconds"] >= max(1800, loading_s)


@each_variant
def test_probes_when_they_ask_then_the_paths_are_answered(variant: str) -> None:
    for one in workloads(variant):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if one.role == "worker":
                assert probe not in one.container, "a worker answers nobody"
                continue
            asked = one.container[probe]["httpGet"]
            assert asked["port"] == "http"
            assert asked["path"] in paths(one.service, settings_in(variant, one))


def paths(service: str, settings: Settings) -> set[str]:
    if service == "triton":
        ready = "/" + Addresses.of(settings).triton_ready.split("/", 3)[3]
        return {ready, ready.replace("/ready", "/live")}
    app = create_app(Settings(model="demo"), model_server=FakeModelServer())
    return {route.path for route in all_routes(app.routes)}


def all_routes(routes: list[Any]) -> Iterator[Route]:
    for route in routes:
        yield from [route] if isinstance(route, Route) else all_routes(getattr(route, "original_router", route).routes)


@each_variant
def test_pods_when_they_end_then_they_have_longer_than_it_takes_to_drain(variant: str) -> None:
    for one in workloads(variant):
        settings = settings_in(variant, one)
        before_s = one.container["lifecycle"]["preStop"]["sleep"]["seconds"]

        assert one.pod["terminationGracePeriodSeconds"] > before_s + settings.server.shutdown_timeout_s


@each_variant
def test_triton_when_it_starts_then_it_has_at_least_as_long_as_a_model_may_take_to_load(variant: str) -> None:
    for one in workloads(variant):
        if one.service == "triton" and one.role != "worker":
            probe = one.container["startupProbe"]
            startup_timeout_s = settings_in(variant, one).server.startup_timeout_s
            assert probe["periodSeconds"] * probe["failureThreshold"] >= startup_timeout_s


@each_variant
def test_images_when_named_then_they_carry_the_projects_version(variant: str) -> None:
    version = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

    for one, container in containers(variant):
        assert container["image"] == f"gptoss/{one.service}:{version}"
        assert one.labels["app.kubernetes.io/version"] == version


@each_variant
def test_pods_when_confined_then_they_are_the_images_user_and_can_write_where_the_image_says(variant: str) -> None:
    for one, container in containers(variant):
        pod, own = one.pod["securityContext"], container["securityContext"]
        assert (pod["runAsUser"], pod["runAsGroup"]) == image_user(one.service)
        assert pod["runAsNonRoot"] is True
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert one.pod["automountServiceAccountToken"] is False
        writable = {PurePosixPath(m["mountPath"]) for m in container["volumeMounts"] if not m.get("readOnly")}
        environment = environment_in(variant, one.service, container)
        for name in {
            "HF_HOME",
            "TRITON_HOME",
            "GPTOSS_SERVER__RUN_DIR",
            "GPTOSS_CHECKPOINTS__DEMO",
        } & environment.keys():
            folder = PurePosixPath(environment[name])
            assert writable & {folder, *folder.parents}, name
