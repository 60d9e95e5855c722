"""The Kubernetes variants and components: each does what it is for, and the README says how."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from gptoss_backend.settings import PROJECT_ROOT, Settings
from gptoss_client.cli import app as command
from support.manifests import (
    BASE,
    KUBERNETES,
    README,
    VARIANTS,
    Document,
    containers,
    matches,
    of_kind,
    render,
    settings_in,
    workload,
    workloads,
)

FLEET, DEMO, LARGE, GROUP = "overlays/fleet", "overlays/demo", "overlays/120b", "overlays/120b-multinode"
ANY_PORT = [{"port": "any"}]

each_variant = pytest.mark.parametrize("variant", VARIANTS)


@each_variant
def test_triton_when_a_checkpoint_is_pulled_first_then_it_is_the_one_it_serves(variant: str) -> None:
    pulls = [(one, init) for one in workloads(variant) for init in one.pod.get("initContainers", [])]

    assert bool(pulls) == (variant != DEMO)
    for one, init in pulls:
        assert init["args"] == ["gptoss", "pull", "--if-absent", settings_in(variant, one).served_model]
    assert "pull" in CliRunner().invoke(command, ["--help"]).output


@each_variant
def test_triton_when_it_is_reached_then_by_the_adapter_and_for_figures_only(variant: str) -> None:
    policies = [one["spec"] for one in of_kind(variant, "NetworkPolicy") if matches_triton(one)]
    rules = [rule for spec in policies for rule in spec["ingress"]]
    ways = [(source, port["port"]) for one in rules for source in one["from"] for port in one.get("ports", ANY_PORT)]

    adapter = workload(variant, "adapter").labels
    for source, port in ways:
        if "namespaceSelector" in source:
            assert port == "metrics"
        elif matches(source["podSelector"], adapter):
            assert port in ("grpc", "metrics")
        else:
            assert (variant, port) == (GROUP, "any")  # ranks among themselves
    assert all(spec["policyTypes"] == ["Ingress"] for spec in policies)


def matches_triton(policy: Document) -> bool:
    return bool(policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "triton")


def test_demo_when_tried_on_a_laptop_then_it_needs_no_gpu_no_key_and_no_download() -> None:
    triton, adapter = workload(DEMO, "triton"), workload(DEMO, "adapter")
    settings = settings_in(DEMO, triton)

    assert settings.served_model == "demo"
    assert "nvidia.com/gpu" not in str(triton.owner)
    assert settings_in(DEMO, adapter).adapter.keys_path is None
    assert [volume["name"] for volume in adapter.pod["volumes"]] == ["tmp", "run"]
    assert settings.engine.num_threads == int(triton.container["resources"]["requests"]["cpu"])


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != DEMO])
def test_adapter_when_it_serves_others_then_its_keys_are_the_secrets(variant: str) -> None:
    adapter = workload(variant, "adapter")
    path = settings_in(variant, adapter).adapter.keys_path
    (mount,) = (mount for mount in adapter.container["volumeMounts"] if mount["name"] == "keys")

    assert path == PurePosixPath(mount["mountPath"]) / "keys.txt"
    assert "subPath" not in mount, "which a changed Secret does not reach"
    assert "--from-file=keys.txt" in README


def test_group_when_it_spreads_a_model_then_its_nodes_and_gpus_are_the_settings() -> None:
    leader, worker = workload(GROUP, "triton", "leader"), workload(GROUP, "triton", "worker")
    placement = settings_in(GROUP, leader).placement
    size = leader.owner["spec"]["leaderWorkerTemplate"]["size"]

    assert placement == settings_in(GROUP, worker).placement
    assert placement.num_nodes == size
    for one in (leader, worker):
        assert one.container["resources"]["limits"]["nvidia.com/gpu"] * size == placement.num_devices
    assert placement.rendezvous == "$(LWS_LEADER_ADDRESS):29500"
    assert settings_in(GROUP, workload(GROUP, "adapter")).placement == Settings().placement


def test_group_when_it_starts_then_the_leader_serves_and_the_workers_join() -> None:
    leader, worker = workload(GROUP, "triton", "leader"), workload(GROUP, "triton", "worker")
    arguments = [*worker.container["args"][1:-1], "0"]

    assert "args" not in leader.container
    assert worker.container["args"][-1] == "$(LWS_WORKER_INDEX)"
    assert "joining needs the placement settings" in str(CliRunner().invoke(command, arguments).exception)
    assert leader.owner["spec"]["startupPolicy"] == "LeaderCreated", "a leader is ready when its workers have come"
    assert not of_kind(GROUP, "StatefulSet")


def test_leader_when_it_waits_for_workers_then_its_probe_leaves_it_the_time_and_that_of_loading() -> None:
    probe, alone = (
        workload(variant, "triton", role).container["startupProbe"]
        for variant, role in ((GROUP, "leader"), (LARGE, "replica"))
    )
    placement = settings_in(GROUP, workload(GROUP, "triton", "leader")).placement
    waiting_s = probe["periodSeconds"] * (probe["failureThreshold"] - alone["failureThreshold"])
    assert waiting_s >= placement.meeting_timeout_s


def test_group_when_the_adapter_looks_for_triton_then_it_finds_leaders_only() -> None:
    (service,) = (one for one in of_kind(GROUP, "Service") if one["spec"].get("clusterIP") == "None")
    selector = {"matchLabels": service["spec"]["selector"]}

    assert matches(selector, workload(GROUP, "triton", "leader").labels)
    assert not matches(selector, workload(GROUP, "triton", "worker").labels)
    # the controller makes a Service of the set's name
    assert of_kind(GROUP, "LeaderWorkerSet")[0]["metadata"]["name"] != service["metadata"]["name"]


def test_large_model_when_deployed_beside_the_small_one_then_in_a_namespace_of_its_own() -> None:
    namespaces = [{document["metadata"].get("namespace") for document in render(one)} - {None} for one in (BASE, LARGE)]

    assert all(len(found) == 1 for found in namespaces)
    assert namespaces[0] != namespaces[1]


def test_fleet_when_it_scales_then_by_metrics_we_publish_of_its_own_engines() -> None:
    (scaled,) = of_kind(FLEET, "ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    asked = re.findall(r'(gptoss_\w+)\{namespace="([\w-]+)"\}', trigger["metadata"]["query"])
    published = (PROJECT_ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")

    assert {name for name, _ in asked} == {"gptoss_engine_num_requests_waiting", "gptoss_engine_num_requests_running"}
    assert all(f"| `{name}` | gauge |" in published for name, _ in asked)
    assert {namespace for _, namespace in asked} == {scaled["metadata"]["namespace"]}
    settings = settings_in(FLEET, workload(FLEET, "triton"))
    max_num_seqs = settings.profiles[settings.profile].max_num_seqs or settings.engine.max_num_seqs
    assert 0 < float(trigger["metadata"]["threshold"]) < max_num_seqs


def test_fleet_when_there_are_no_figures_then_its_size_stays() -> None:
    (scaled,) = of_kind(FLEET, "ScaledObject")
    assert all(trigger["metadata"]["ignoreNullValues"] == "false" for trigger in scaled["spec"]["triggers"])
    assert scaled["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"


def test_fleet_when_applied_again_then_the_autoscalers_numbers_stay() -> None:
    scalers = of_kind(FLEET, "ScaledObject") + of_kind(FLEET, "HorizontalPodAutoscaler")
    targets = {(one["spec"]["scaleTargetRef"]["kind"], one["spec"]["scaleTargetRef"]["name"]) for one in scalers}

    assert targets == {(one.owner["kind"], one.owner["metadata"]["name"]) for one in workloads(FLEET)}
    assert not [one for one in workloads(FLEET) if "replicas" in one.owner["spec"]]


def test_fleet_when_scraped_then_prometheus_finds_both_services_and_names_their_jobs_as_our_rules_do() -> None:
    scraped = yaml.safe_load((PROJECT_ROOT / "docker/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    jobs = set()
    for monitor in of_kind(FLEET, "ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        (service,) = (
            one for one in of_kind(FLEET, "Service") if matches(monitor["spec"]["selector"], one["metadata"]["labels"])
        )
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert endpoint["path"] == "/metrics"
        jobs.add(service["metadata"]["labels"][monitor["spec"]["jobLabel"]])

    assert jobs == {job["job_name"] for job in scraped["scrape_configs"]}


# --- the instructions -----------------------------------------------------------------------------------------------


def test_readme_when_it_tells_of_variants_and_components_then_of_all_of_them() -> None:
    components = {f"components/{folder.name}" for folder in (KUBERNETES / "components").iterdir()}

    assert set(re.findall(r"`((?:base|overlays/|components/)[\w-]*)`", README)) == {*VARIANTS, *components}


@pytest.mark.parametrize(("variant", "profile"), [(BASE, "latency_first"), (GROUP, "quality_first")])
def test_readme_when_its_own_overlay_is_applied_then_each_pod_starts_with_its_settings_from_its_registry(
    tmp_path: Path, variant: str, profile: str
) -> None:
    (example,) = re.findall(r"^```yaml\n(# \S+/kustomization\.yaml.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert "docker/kubernetes/base]" in example
    changed = example.replace("docker/kubernetes/base]", f"docker/kubernetes/{variant}]")
    changed = changed.replace("GPTOSS_PROFILE=latency_first", f"GPTOSS_PROFILE={profile}")
    if variant == GROUP:
        changed = re.sub(r"^replicas:.*\n.*\n", "", changed, flags=re.MULTILINE)
    (tmp_path / "gptoss").symlink_to(PROJECT_ROOT)
    own = tmp_path / "our-gptoss"
    own.mkdir()
    (own / "kustomization.yaml").write_text(changed, encoding="utf-8")

    seen = list(containers(str(own)))

    assert seen
    for one, container in seen:
        settings = settings_in(str(own), one, container)
        assert settings.profile == profile
        assert settings.adapter.max_concurrency_per_key == (8 if one.service == "adapter" else None)
        assert container["image"] == f"registry.example.com/gptoss/{one.service}:0.1.0"


@pytest.mark.parametrize("variant", [BASE, GROUP])
def test_readme_when_nvidias_runtime_is_not_the_default_then_its_patch_gives_it_to_what_has_gpus(
    tmp_path: Path, variant: str
) -> None:
    (patches,) = re.findall(r"^patches:.*?value: nvidia}\"$", README, re.MULTILINE | re.DOTALL)
    if variant == GROUP:
        template = "/spec/leaderWorkerTemplate/{}Template/spec/runtimeClassName"
        patches = patches.replace("StatefulSet, name: gptoss-triton", "LeaderWorkerSet, name: gptoss-ranks")
        added = [f"- {{op: add, path: {template.format(role)}, value: nvidia}}" for role in ("leader", "worker")]
        patches = re.sub('".*"', "\n      ".join(["|", *added]), patches)
    overlay = own_overlay(tmp_path, f"resources: [../gptoss/docker/kubernetes/{variant}]\n{patches}")

    for one in workloads(overlay):
        assert one.pod.get("runtimeClassName") == ("nvidia" if one.service == "triton" else None)


def test_readme_when_it_installs_then_by_overlays_that_name_a_registry() -> None:
    applied = re.findall(r"^kubectl apply -k (\S+)", README, re.MULTILINE)

    assert "../our-gptoss" in applied
    assert f"# {applied[0]}/kustomization.yaml" in README
    assert not [path for path in applied if path.startswith("docker/kubernetes")]


def test_monitoring_when_applied_then_its_alerts_are_those_of_our_rules_under_the_overlays_labels(
    tmp_path: Path,
) -> None:
    (rule,) = of_kind(FLEET, "PrometheusRule")
    (labels,) = re.findall(r"^labels:.*?\n  - pairs: .*?$", README, re.MULTILINE | re.DOTALL)
    overlay = own_overlay(tmp_path, f"resources: [../gptoss/docker/kubernetes/{FLEET}]\n{labels}")

    assert (rule["apiVersion"], rule["metadata"]["namespace"]) == ("monitoring.coreos.com/v1", "gptoss")
    told = "as docker/prometheus/rules.yml has it: make alert-rules"
    assert rule["spec"] == yaml.safe_load((PROJECT_ROOT / "docker/prometheus/rules.yml").read_text("utf-8")), told
    for kind in ("PrometheusRule", "ServiceMonitor"):
        for document in of_kind(overlay, kind):
            assert document["metadata"]["labels"]["release"] == "kube-prometheus-stack"


def test_readme_when_its_ingress_is_held_against_what_the_adapter_takes_then_it_lets_that_through() -> None:
    (text,) = re.findall(r"^```yaml\n(apiVersion: networking.*?)^```", README, re.MULTILINE | re.DOTALL)
    ingress = yaml.safe_load(text)
    kubernetes_validate.validate(ingress, "1.30", strict=True)
    annotations = {name.rpartition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    (service,) = (
        one for one in of_kind(BASE, "Service") if one["metadata"]["name"] == path["backend"]["service"]["name"]
    )

    assert path["backend"]["service"]["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
    assert int(annotations["proxy-body-size"].removesuffix("m")) * 2**20 >= Settings().adapter.max_body_bytes
    assert float(annotations["proxy-read-timeout"]) > Settings().adapter.keepalive_s
    assert annotations["proxy-buffering"] == "off"


def own_overlay(folder: Path, text: str) -> str:
    """Write an overlay beside the project, as the README says; returns its path."""
    (folder / "gptoss").symlink_to(PROJECT_ROOT)
    own = folder / "our-gptoss"
    own.mkdir()
    head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
    (own / "kustomization.yaml").write_text(head + text, encoding="utf-8")
    return str(own)


@pytest.mark.parametrize("is_monitored", [False, True])
def test_tls_when_the_adapter_has_a_certificate_then_probes_and_monitors_speak_https(
    tmp_path: Path, is_monitored: bool
) -> None:
    folder = "../gptoss/docker/kubernetes"
    components = [f"{folder}/components/{name}" for name in (["monitoring"] if is_monitored else []) + ["tls"]]
    overlay = own_overlay(tmp_path, f"resources: [{folder}/{BASE}]\ncomponents: [{', '.join(components)}]\n")
    adapter, triton = workload(overlay, "adapter"), workload(overlay, "triton")
    settings = settings_in(overlay, adapter).adapter
    mounts = {mount["mountPath"]: mount["name"] for mount in adapter.container["volumeMounts"]}
    (secret,) = (one["secret"] for one in adapter.pod["volumes"] if one["name"] == "tls")

    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert adapter.container[probe]["httpGet"]["scheme"] == "HTTPS"
        assert "scheme" not in triton.container[probe]["httpGet"]
    assert str(settings.tls_certificate) == "/etc/gptoss-tls/tls.crt"
    assert str(settings.tls_key) == "/etc/gptoss-tls/tls.key"
    assert mounts["/etc/gptoss-tls"] == "tls"
    assert f"create secret tls {secret['secretName']} " in README
    schemes = {
        monitor["metadata"]["name"]: monitor["spec"]["endpoints"][0].get("scheme", "http")
        for monitor in of_kind(overlay, "ServiceMonitor")
    }
    assert schemes == ({"gptoss-adapter": "https", "gptoss-triton": "http"} if is_monitored else {})
