"""`gptoss doctor`: what it makes of a machine."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from gptoss_backend.demo.random_checkpoint import Shape, write_random_checkpoint
from gptoss_backend.settings import Settings, load_settings
from gptoss_client import doctor
from gptoss_client.doctor import Finding, Level
from gptoss_client.doctor_checkpoint import BrokenCheckpointError, whole_checkpoint_bytes
from gptoss_client.gpu import Gpu, list_gpus
from support.stand_ins import free_ports

SHAPE = Shape(
    hidden_size=64,
    num_layers=1,
    num_experts=4,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=32,
    head_dim=16,
    vocab_size=300,
)
CARD = Gpu(0, "NVIDIA H100 80GB HBM3", "550.54", 80 * 2**30, 79 * 2**30)
SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    write_random_checkpoint(folder, SHAPE, seed=1, name="a test")
    return folder


def settings_for(folder: Path, checkpoint: Path | str, model: str = "20b") -> Settings:
    port, grpc, metrics, http = free_ports(4)
    server = {
        "port": port,
        "triton_grpc_port": grpc,
        "triton_metrics_port": metrics,
        "triton_http_port": http,
        "run_dir": str(folder / "run"),
    }
    return load_settings({"model": model, "checkpoints": {model: str(checkpoint)}, "server": server}, environ={})


def on(monkeypatch: pytest.MonkeyPatch, *, cards: list[Gpu] | None = None, **torch: object) -> None:
    """Give the machine these cards, and a torch that says this of itself."""
    facts = {"version": "2.13.0", "cuda": "12.8", "sees_gpu": bool(cards), "host_bytes": 64 * 2**30} | torch
    monkeypatch.setattr(doctor, "list_gpus", lambda environment: cards or [])
    monkeypatch.setattr(doctor, "has_nvidia_gpu", lambda environment: bool(cards))
    monkeypatch.setattr(doctor, "_TORCH_PROBE", f"print({json.dumps(json.dumps(facts))})")


def by_subject(settings: Settings) -> dict[str, Finding]:
    return {finding.subject: finding for finding in doctor.diagnose(settings)}


def test_doctor_when_all_is_well_then_finds_no_fault(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, cards=[CARD])

    findings = doctor.diagnose(settings_for(tmp_path, checkpoint))

    assert {finding.level for finding in findings} == {Level.OK}, findings
    assert doctor.exit_status(findings) == 0
    assert not (tmp_path / "run").exists()


def test_doctor_when_it_asks_the_real_torch_then_it_answers(tmp_path: Path, checkpoint: Path) -> None:
    found = by_subject(settings_for(tmp_path, checkpoint, "demo"))

    assert found["torch"].level is Level.OK
    assert "demo needs about 2.0 GiB" in found["memory"].words


@pytest.mark.parametrize(
    ("torch", "subject", "words"),
    [
        ({"cuda": None, "sees_gpu": False}, "torch", "built for CPUs, though there is a GPU"),
        ({"sees_gpu": False}, "torch", "sees no GPU with driver 550.54"),
    ],
)
def test_doctor_when_torch_cannot_use_the_gpu_then_says_what_to_install(
    tmp_path: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    torch: dict[str, object],
    subject: str,
    words: str,
) -> None:
    on(monkeypatch, cards=[CARD], **torch)

    finding = by_subject(settings_for(tmp_path, checkpoint))[subject]

    assert finding.level is Level.PROBLEM
    assert words in finding.words
    assert finding.remedy


def test_doctor_when_torch_does_not_import_then_repeats_its_last_words(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch)
    monkeypatch.setattr(doctor, "_TORCH_PROBE", "raise ImportError('libcudart.so.12: no such file')")

    found = by_subject(settings_for(tmp_path, checkpoint))

    assert found["torch"].words == "cannot be imported: ImportError: libcudart.so.12: no such file"
    assert found["memory"].level is Level.WARNING


def test_doctor_when_memory_is_too_small_then_gives_both_figures(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, cards=[Gpu(0, "Tesla T4", "550.54", 16 * 2**30, 2**30)])

    finding = by_subject(settings_for(tmp_path, checkpoint))["memory"]

    assert finding.level is Level.PROBLEM
    assert finding.words == "1.0 GiB of GPU memory free, 20b needs about 2.0 GiB"


def test_doctor_when_there_is_no_gpu_then_warns_of_a_large_model_only(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch)

    findings = doctor.diagnose(settings_for(tmp_path, checkpoint))

    assert [finding.subject for finding in findings if finding.level is Level.WARNING] == ["GPU"]
    assert doctor.exit_status(findings) == 0
    assert by_subject(settings_for(tmp_path, checkpoint, "demo"))["GPU"].level is Level.OK


@pytest.mark.parametrize("name", ["/nowhere/at/all", "nobody/has-this-one"])
def test_doctor_when_the_checkpoint_is_not_there_then_serving_would_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    on(monkeypatch, cards=[CARD])

    findings = doctor.diagnose(settings_for(tmp_path, name))

    problems = [finding for finding in findings if finding.level is Level.PROBLEM]
    assert [finding.subject for finding in problems] == ["checkpoint"]
    assert problems[0].remedy in ("choose another --checkpoint", "gptoss pull nobody/has-this-one")
    assert doctor.exit_status(findings) == 1


def test_doctor_when_a_port_is_taken_then_names_it_and_the_way_out(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, cards=[CARD])
    settings = settings_for(tmp_path, checkpoint)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", settings.server.port))
        taken.listen()

        finding = by_subject(settings)["port"]

    assert finding.level is Level.PROBLEM
    assert finding.words.startswith(f"port {settings.server.port} (the OpenAI API) is taken by ")
    assert finding.remedy == "stop what listens there, or choose another --port, or let --auto-port choose"


def test_lines_when_a_finding_has_a_remedy_then_it_stands_below() -> None:
    lines = doctor.as_lines([Finding("disk", Level.WARNING, "little is free", "make room")])

    assert lines == ["warning  disk        little is free", "                     → make room"]


# --- checkpoints ----------------------------------------------------------------------------------------------------


def test_checkpoint_when_whole_then_its_size_is_told(checkpoint: Path) -> None:
    assert whole_checkpoint_bytes(checkpoint) == sum(p.stat().st_size for p in checkpoint.glob("*.safetensors"))


def cut(folder: Path) -> None:
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-1])


def overwrite(folder: Path) -> None:
    (folder / SHARD).write_bytes(b"<html>not found</html>")


def promise_more(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.layers.1.mlp.router.weight"] = SHARD
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda folder: (folder / SHARD).unlink(), rf"{SHARD} is missing"),
        (cut, rf"{SHARD} has [\d,]+ bytes, its header promises [\d,]+"),
        (overwrite, rf"{SHARD} has no readable safetensors header"),
        (promise_more, r"lacks the tensor model\.layers\.1\.mlp\.router\.weight"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "llama"}'), "model type 'llama'"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "holds no weight_map"),
        (lambda folder: (folder / "model.safetensors.index.json").unlink(), r"model\.safetensors is missing"),
    ],
)
def test_checkpoint_when_harmed_then_the_file_at_fault_is_named(checkpoint: Path, harm: object, sentence: str) -> None:
    assert callable(harm)
    harm(checkpoint)

    with pytest.raises(BrokenCheckpointError, match=sentence):
        whole_checkpoint_bytes(checkpoint)


# --- cards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "indices"), [(None, [0, 1]), ("1", [1]), ("GPU-f00", [0, 1]), ("", []), ("-1", [])]
)
def test_gpus_when_the_driver_lists_them_then_those_the_process_sees_are_told(
    tmp_path: Path, visible: str | None, indices: list[int]
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text(
        "#!/bin/sh\necho '0, NVIDIA H100 80GB HBM3, 550.54, 81559, 81000'\n"
        "echo '1, NVIDIA H100 80GB HBM3, 550.54, 81559, 512'\necho 'GPU 2 is lost'\n"
    )
    driver.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/bin"} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})

    gpus = list_gpus(environment)

    assert [gpu.index for gpu in gpus] == indices
    assert all((gpu.driver, gpu.total_bytes) == ("550.54", 81559 * 2**20) for gpu in gpus)
