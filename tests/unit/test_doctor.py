"""`gptoss doctor`: what it makes of a machine."""

from __future__ import annotations

import dataclasses
import json
import re
import socket
import sysconfig
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gptoss_backend.demo.random_checkpoint import Shape, write_random_checkpoint
from gptoss_backend.engine.checkpoint_files import SINGLE_FILE
from gptoss_backend.engine.native import library
from gptoss_backend.engine.native.library import AVX2
from gptoss_backend.settings import PROJECT_ROOT, Settings
from gptoss_backend.settings_sources import load_settings
from gptoss_client import doctor, doctor_examination, doctor_hardware, doctor_ports, doctor_software
from gptoss_client.doctor_checkpoint import BrokenCheckpointError, whole_checkpoint_bytes
from gptoss_client.doctor_cuda import driver_for, find_compiler, is_built_for, python_header, torch_for_card
from gptoss_client.doctor_findings import Finding, Level
from gptoss_client.gpu import Gpu, list_gpus
from gptoss_client.placing import Placing
from support import live_server
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
# as in torch.cuda.PYTORCH_RELEASES_CODE_CC, the last with its PTX
CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
CUDA_12_6 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


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


def on(monkeypatch: pytest.MonkeyPatch, *, cards: list[Gpu] | None = None, **facts: object) -> None:
    """Give the machine these cards, what compiling takes, and a torch that says this of itself."""
    told = {
        "version": "2.13.0",
        "cuda": "13.0",
        "sees_gpu": bool(cards),
        "capabilities": [("NVIDIA H100 80GB HBM3", (9, 0))] if cards else [],
        "architectures": CUDA_13,
        "host_bytes": 64 * 2**30,
    } | facts
    monkeypatch.setattr(doctor_software, "find_compiler", lambda environment: "/usr/bin/gcc")
    monkeypatch.setattr(doctor_software, "python_header", lambda: Path(__file__))
    monkeypatch.setattr(doctor_examination, "list_gpus", lambda environment: cards or [])
    monkeypatch.setattr(doctor_hardware, "has_nvidia_gpu", lambda environment: bool(cards))
    monkeypatch.setattr(doctor_ports, "hard_limit", lambda: 524_288)
    monkeypatch.setattr(doctor_examination, "_TORCH_PROBE", f"print({json.dumps(json.dumps(told))})")


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


def test_doctor_when_torch_sees_a_card_then_it_tells_what_it_can_do_and_what_torch_is_built_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    has = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda card: f"card {card}",
        "get_device_capability": lambda card: (7, card),
        "get_arch_list": lambda: CUDA_13,
    }
    for name, answer in has.items():
        monkeypatch.setattr(torch.cuda, name, answer)

    exec(doctor_examination._TORCH_PROBE, {})

    facts = json.loads(capsys.readouterr().out)
    assert facts["capabilities"] == [["card 0", [7, 0]]]
    assert facts["architectures"] == CUDA_13


@pytest.mark.parametrize(
    ("driver", "facts", "words", "remedy"),
    [
        ("550.54", {"cuda": None, "sees_gpu": False}, "built for CPUs, though there is a GPU", "whl/cu126"),
        ("580.65.06", {"cuda": None, "sees_gpu": False}, "built for CPUs, though there is a GPU", "whl/cu130"),
        (
            "550.54",
            {"sees_gpu": False},
            "sees no GPU with driver 550.54",
            "CUDA 13.0 (580 or newer), or another build: ",
        ),
        (
            "580.65.06",
            {"capabilities": [("NVIDIA H100", (9, 0)), ("Tesla V100", (7, 0))]},
            "built for CUDA 13.0, but not for Tesla V100 (compute capability 7.0)",
            "whl/cu126",
        ),
    ],
)
def test_doctor_when_torch_cannot_use_the_gpu_then_says_what_to_install(
    tmp_path: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    driver: str,
    facts: dict[str, object],
    words: str,
    remedy: str,
) -> None:
    on(monkeypatch, cards=[dataclasses.replace(CARD, driver=driver)], **facts)

    finding = by_subject(settings_for(tmp_path, checkpoint))["torch"]

    assert finding.level is Level.PROBLEM
    assert words in finding.words
    assert remedy in finding.remedy
    assert 'TORCH_INSTALL="torch==2.13.0 --extra-index-url https://' in finding.remedy


def test_doctor_when_torch_is_not_for_a_card_that_is_left_out_then_it_is_no_fault(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Gpu(1, "NVIDIA GeForce GT 1030", CARD.driver, 2 * 2**30, 2 * 2**30)
    capabilities = [("NVIDIA H100", (9, 0)), ("NVIDIA GeForce GT 1030", (6, 1))]
    on(monkeypatch, cards=[CARD, old], capabilities=capabilities)
    monkeypatch.setattr(doctor_examination, "place", lambda *_: Placing("replicas", shares=((0,),), num_cards=2))

    found = by_subject(settings_for(tmp_path, checkpoint))

    assert found["torch"].level is Level.OK
    assert found["GPU"].words.endswith("left out: 1")
    assert f"{CARD.free_bytes / 2**30:.1f} GiB of GPU memory free" in found["memory"].words


@pytest.mark.parametrize(
    ("capability", "architectures", "is_for"),
    [
        ((7, 0), CUDA_13, False),
        ((7, 0), CUDA_12_6, True),
        ((7, 5), CUDA_13, True),
        ((8, 9), CUDA_13, True),  # by sm_86
        ((10, 3), CUDA_13, True),
        ((12, 1), CUDA_12_6, False),
        ((13, 0), CUDA_13, True),  # by its PTX
        ((13, 0), CUDA_13[:-1], False),
        ((9, 0), ["sm_90a"], True),
        ((7, 0), [], True),  # nothing known: nothing to hold against it
    ],
)
def test_torch_when_built_for_some_cards_then_those_of_the_same_major_version_and_beyond_its_ptx_count(
    capability: tuple[int, int], architectures: list[str], *, is_for: bool
) -> None:
    assert is_built_for(capability, architectures) is is_for


def test_torch_when_a_card_is_newer_than_its_build_then_the_newer_build_is_named() -> None:
    assert "whl/cu130" in torch_for_card((12, 0), CUDA_12_6)
    assert "whl/cu126" in torch_for_card((7, 0), CUDA_13)


def test_driver_when_its_cuda_is_unknown_then_no_number_is_made_up() -> None:
    assert driver_for("14.1") == "a driver that supports CUDA 14.1"


def test_other_torch_when_named_then_it_is_of_the_version_that_setup_installs() -> None:
    version = re.search(
        r"^TORCH_INSTALL \?= (torch==\S+)$", (PROJECT_ROOT / "Makefile").read_text("utf-8"), re.MULTILINE
    )
    assert version is not None
    named = [torch_for_card((7, 0), CUDA_13)]
    named += [(PROJECT_ROOT / file).read_text("utf-8") for file in ("README.md", "Makefile")]

    for text in named:
        others = re.findall(r'TORCH_INSTALL="(.*?)"', text)
        assert others
        # instead of the registry, torch's own index has not the versions that the lock pins
        assert all(other.startswith(f"{version[1]} --extra-index-url https://") for other in others)


def test_doctor_when_torch_does_not_import_then_repeats_its_last_words(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch)
    monkeypatch.setattr(doctor_examination, "_TORCH_PROBE", "raise ImportError('libcudart.so.12: no such file')")

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


@pytest.mark.parametrize(
    ("compiler", "has_header", "environ", "words"),
    [
        (None, True, {}, "there is no C compiler (gcc or clang): "),
        (None, True, {"CC": "icc"}, "there is no C compiler (icc): "),
        ("/usr/bin/gcc", False, {}, "there is no /nowhere/Python.h: "),
        (None, False, {}, "there is no C compiler (gcc or clang) and no /nowhere/Python.h: "),
    ],
)
def test_doctor_when_triton_language_cannot_compile_on_a_gpu_then_names_what_is_missing(
    tmp_path: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiler: str | None,
    has_header: bool,
    environ: dict[str, str],
    words: str,
) -> None:
    on(monkeypatch, cards=[CARD])
    monkeypatch.delenv("CC", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(doctor_software, "find_compiler", lambda environment: compiler)
    if not has_header:
        monkeypatch.setattr(doctor_software, "python_header", lambda: Path("/nowhere/Python.h"))

    finding = by_subject(settings_for(tmp_path, checkpoint))["compiler"]

    assert finding.level is Level.PROBLEM
    assert finding.words.startswith(words)
    assert finding.remedy == "on Debian and Ubuntu: apt install gcc python3-dev"


def test_doctor_when_there_is_no_gpu_then_asks_for_no_compiler(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch)

    assert "compiler" not in by_subject(settings_for(tmp_path, checkpoint))


def test_compiler_when_several_are_there_then_it_is_the_one_triton_language_takes(tmp_path: Path) -> None:
    path = {"PATH": str(tmp_path)}
    found = [find_compiler(path)]
    for name in ("clang", "gcc", "own"):
        (tmp_path / name).touch(mode=0o755)
        found.append(find_compiler(path))

    assert found == [None, str(tmp_path / "clang"), str(tmp_path / "gcc"), str(tmp_path / "gcc")]
    assert find_compiler(path | {"CC": "own"}) == str(tmp_path / "own")
    assert find_compiler(path | {"CC": "gone"}) is None


@pytest.mark.parametrize("scheme", ["posix_prefix", "posix_local"])
def test_header_when_looked_for_then_in_the_folder_of_the_interpreter_itself(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr(sysconfig, "get_default_scheme", lambda: scheme)

    assert python_header() == Path(sysconfig.get_paths("posix_prefix")["include"]) / "Python.h"


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


def test_doctor_when_there_are_to_be_several_replicas_then_memory_and_ports_are_for_all(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch)
    settings = settings_for(tmp_path, checkpoint, "demo")
    ports = {"port": live_server.free_ports(7), "triton_grpc_port": None, "triton_metrics_port": None}
    server = settings.server.model_copy(update={"num_replicas": 2, "triton_http_port": None} | ports)
    one, two = by_subject(settings), by_subject(settings.model_copy(update={"server": server}))
    spread = settings.placement.model_copy(update={"mode": "tensor", "rendezvous": "h:1"})
    refused = by_subject(settings.model_copy(update={"server": server, "placement": spread}))["placement"]

    assert "placement" not in one
    assert two["placement"].words == "2 replicas, a tritonserver each"
    assert "demo needs about 2.0 GiB" in one["memory"].words
    assert "2 replicas of demo need about 4.0 GiB" in two["memory"].words
    assert two["ports"].words.count(", ") == 6
    assert (refused.level, refused.remedy) == (Level.PROBLEM, "leave it out")


def test_doctor_when_fewer_files_may_be_open_than_full_engines_take_connections_then_it_warns(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, cards=[CARD])
    settings = settings_for(tmp_path, checkpoint)
    assert "connections" not in by_subject(settings)
    monkeypatch.setattr(doctor_ports, "hard_limit", lambda: 1024)

    found = by_subject(settings)["connections"]

    assert (found.level, found.words) == (
        Level.WARNING,
        "no more than 1024 files may be open in a process, 1216 are where the engines are full",
    )
    assert "LimitNOFILE" in found.remedy


def test_lines_when_a_finding_has_a_remedy_then_it_stands_below() -> None:
    lines = doctor.as_lines([Finding("disk", Level.WARNING, "little is free", "make room")])

    assert lines == ["warning  disk        little is free", "                     → make room"]


# --- checkpoints ----------------------------------------------------------------------------------------------------


def test_checkpoint_when_whole_then_its_size_is_told(checkpoint: Path) -> None:
    assert whole_checkpoint_bytes(checkpoint) == sum(p.stat().st_size for p in checkpoint.glob("*.safetensors"))


def test_checkpoint_when_a_whole_model_lies_beside_an_index_then_it_counts_as_the_engine_has_it(
    checkpoint: Path,
) -> None:
    shards = sorted(checkpoint.glob("*.safetensors"))
    whole = checkpoint / SINGLE_FILE
    save_file({name: tensor for shard in shards for name, tensor in load_file(shard).items()}, whole)
    shards[0].unlink()

    assert whole_checkpoint_bytes(checkpoint) == whole.stat().st_size


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
        (overwrite, rf"{SHARD} is corrupt or cut short: it has no header"),
        (lambda folder: (folder / SHARD).write_bytes((2).to_bytes(8, "little") + b"{}"), "has no readable safetensors"),
        (promise_more, r"lacks the tensor model\.layers\.1\.mlp\.router\.weight"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "llama"}'), "model type 'llama'"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "not a readable shard index"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}'),
            "no tensors",
        ),
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
    ("visible", "indices"),
    [
        (None, [0, 1]),
        ("1", [1]),
        ("1,0", [1, 0]),
        ("GPU-1b", [1]),
        ("GPU-f00", [0, 1]),
        ("MIG-0a1", [0, 1]),
        ("", []),
        ("-1", []),
    ],
)
def test_gpus_when_the_driver_lists_them_then_those_the_process_sees_are_told(
    tmp_path: Path, visible: str | None, indices: list[int]
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text(
        "#!/bin/sh\necho '0, NVIDIA H100 80GB HBM3, 550.54, 81559, 81000, GPU-0a1'\n"
        "echo '1, NVIDIA H100 80GB HBM3, 550.54, 81559, 512, GPU-1b2'\necho 'GPU 2 is lost'\n"
    )
    driver.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/bin"} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})

    gpus = list_gpus(environment)

    assert [gpu.index for gpu in gpus] == indices
    assert all((gpu.driver, gpu.total_bytes) == ("550.54", 81559 * 2**20) for gpu in gpus)


@pytest.mark.parametrize(
    ("flags", "compiler", "level", "words", "remedy"),
    [
        (AVX2.features, "/usr/bin/g++", Level.OK, "C++ (AVX2), which /usr/bin/g++ builds at the first start", ""),
        (AVX2.features, None, Level.WARNING, "since there is no C++ compiler", "on Debian and Ubuntu: apt install g++"),
        (("sse2",), "/usr/bin/g++", Level.WARNING, "since the processor lacks AVX2", ""),
    ],
)
def test_doctor_when_the_processor_computes_then_it_says_with_what_and_how_much_memory_that_takes(
    flags: tuple[str, ...],
    compiler: str | None,
    level: Level,
    words: str,
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on(monkeypatch)
    monkeypatch.setattr(library, "_flags_of_processor", lambda: flags)
    monkeypatch.setattr(library, "find_compiler", lambda: compiler)
    found = by_subject(settings_for(tmp_path, "openai/gpt-oss-20b"))
    assert (found["kernels"].level, found["kernels"].remedy) == (level, remedy)
    assert words in found["kernels"].words
    assert f"20b needs about {14.8 if level is Level.OK else 40.4} GiB" in found["memory"].words


def test_doctor_when_a_gpu_computes_then_kernels_of_a_processor_are_no_matter(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, cards=[CARD])
    assert "kernels" not in by_subject(settings_for(tmp_path, checkpoint))
