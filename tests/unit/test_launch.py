"""What a server is made of: tritonserver's flags, addresses, probes, and what is checked before."""

from __future__ import annotations

import http.server
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gptoss_backend.settings import Settings
from gptoss_backend.settings_sources import load_settings
from gptoss_client import gpu, serve
from gptoss_client.addresses import Addresses, listeners, on_free_ports
from gptoss_client.checkpoint import absolute, ensure_checkpoints
from gptoss_client.errors import CommandError, DriverError, PortError, RunningError, UsageError
from gptoss_client.gpu import has_nvidia_gpu, list_gpus
from gptoss_client.launch import processes
from gptoss_client.logs import last_lines
from gptoss_client.placing import Placing
from gptoss_client.ports import Listener, check_ports
from gptoss_client.probing import probe
from gptoss_client.process_group import ProcessRecord
from gptoss_client.run_state import Phase, RunDirectory, RunState
from gptoss_client.stop_signal import StopSignal
from gptoss_client.triton_command import exposure, load_failure, remove_shared_memory, triton_command
from gptoss_client.triton_runtime import TritonRuntime
from support.processes import Diary
from support.stand_ins import free_ports

RUNTIME = TritonRuntime(Path("/t/bin/tritonserver"), Path("/t/backends"), Path("/t/caches"))


def settings_with(**server: object) -> Settings:
    return load_settings({"model": "20b", "server": server}, environ={})


# --- tritonserver's command -----------------------------------------------------------------------------------------


def test_triton_command_when_made_then_loads_the_served_model_only_and_listens_where_settings_say() -> None:
    settings = settings_with(port=9000, triton_host="127.0.0.2", shutdown_timeout_s=30)

    command = triton_command(settings, RUNTIME, config_name="cpu", shm_prefix="gptoss_1_")

    assert command[0] == "/t/bin/tritonserver"
    loaded = [flag.partition("=")[2] for flag in command if flag.startswith("--load-model=")]
    assert loaded == ["preprocess", "gpt_oss_20b", "gpt_oss_20b_chat"]
    assert {
        "--model-control-mode=explicit",
        "--model-config-name=cpu",
        "--backend-directory=/t/backends",
        "--backend-config=python,shm-region-prefix-name=gptoss_1_",
        "--cache-config=local,size=67108864",
        "--cache-directory=/t/caches",
        "--grpc-address=127.0.0.2",
        "--grpc-port=9001",
        "--metrics-port=9002",
        "--http-port=9003",
        "--exit-timeout-secs=28",
    } <= set(command)


def test_triton_command_when_it_listens_in_ipv6_then_each_server_is_told_so_in_its_own_way() -> None:
    command = triton_command(settings_with(triton_host="::1"), RUNTIME, config_name=None, shm_prefix="p")

    assert [flag for flag in command if "-address=" in flag] == [
        "--grpc-address=[::1]",
        "--http-address=ipv6:::1",
        "--metrics-address=ipv6:::1",
    ]


def test_triton_command_when_the_cache_is_off_and_nothing_is_special_then_leaves_those_flags_out() -> None:
    command = triton_command(
        settings_with(response_cache_bytes=0, shutdown_timeout_s=1),
        TritonRuntime(Path("tritonserver")),
        config_name=None,
        shm_prefix="p",
    )

    absent = ("--cache-", "--model-config-name", "--backend-directory")
    assert not [flag for flag in command if flag.startswith(absent)]
    assert "--exit-timeout-secs=1" in command


def test_triton_command_when_there_are_cards_then_triton_takes_no_memory_of_its_own_there() -> None:
    def command(num_cards: int, **server: object) -> tuple[str, ...]:
        return triton_command(settings_with(**server), RUNTIME, config_name=None, shm_prefix="p", num_cards=num_cards)

    pools = [flag for flag in command(2) if "-memory-pool-" in flag]
    assert pools == [
        "--pinned-memory-pool-byte-size=0",
        "--cuda-memory-pool-byte-size=0:0",
        "--cuda-memory-pool-byte-size=1:0",
    ]
    assert not [flag for flag in command(0) if "-memory-pool-" in flag]
    assert "--allow-gpu-metrics=false" not in command(1)
    assert "--allow-gpu-metrics=false" in command(1, gpu_metrics=False)


def test_processes_when_made_then_tritonserver_starts_first_and_a_crash_of_its_stubs_counts(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with run.claim():
        triton, adapter = processes(settings_with(), RUNTIME, run, placing=Placing(None), shm_prefix="p")

    assert (triton.name, adapter.name) == ("tritonserver", "adapter")
    assert (triton.needs_children, adapter.needs_children) == (True, False)
    assert triton.environment["GPTOSS_CONFIG"] == adapter.environment["GPTOSS_CONFIG"] == str(tmp_path / "config.yaml")
    assert [flag.endswith(f":gptoss-key={run.read_triton_key()}") for flag in triton.command].count(True) == 2


def test_processes_when_there_are_several_replicas_then_nothing_of_theirs_is_shared_but_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b")
    run = RunDirectory(tmp_path)
    with run.claim():
        for name in ("triton-1", "triton-2"):
            (run.logs / f"{name}.log").write_text("of an earlier server")
        first, second, adapter = processes(
            settings_with(port=9000, num_replicas=2),
            RUNTIME,
            run,
            placing=Placing("replicas", 2, ((0,), (1,))),
            shm_prefix="p_",
        )

    assert [spec.name for spec in (first, second)] == ["tritonserver", "tritonserver-1"] == list(adapter.lives_on)
    assert first.lives_on == second.lives_on == ()
    assert [spec.log.name for spec in (first, second)] == ["triton.log", "triton-1.log"]
    assert first.environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert {log.name for log in run.logs.iterdir()} == {"triton-1.log.1", "triton-2.log.1"}
    assert [spec.environment["CUDA_VISIBLE_DEVICES"] for spec in (first, second)] == ["GPU-a", "GPU-b"]
    assert adapter.environment["CUDA_VISIBLE_DEVICES"] == "GPU-a, GPU-b"
    for spec, ports, prefix in ((first, (9001, 9002, 9003), "p_0_"), (second, (9004, 9005, 9006), "p_1_")):
        flags = [f"--{kind}-port={port}" for kind, port in zip(("grpc", "metrics", "http"), ports, strict=True)]
        prefixed = f"--backend-config=python,shm-region-prefix-name={prefix}"
        assert {*flags, prefixed, "--model-config-name=replicas"} <= set(spec.command)
    assert len({flag for spec in (first, second) for flag in spec.command if "gptoss-key=" in flag}) == 2


@pytest.mark.parametrize(
    ("host", "is_of_wheel", "is_exposed"),
    [("0.0.0.0", True, True), ("10.0.0.1", True, True), ("127.0.0.1", True, False), ("0.0.0.0", False, False)],
)
def test_exposure_when_the_wheels_tritonserver_listens_to_the_network_then_it_is_said_and_else_not(
    host: str, is_of_wheel: bool, is_exposed: bool
) -> None:
    runtime = replace(RUNTIME, libraries=(Path("/t/libs"),) if is_of_wheel else ())
    sentence = exposure(settings_with(triton_host=host).server, runtime)

    assert (sentence is not None) == is_exposed
    if sentence:
        assert host in sentence
        assert "server.triton_host" in sentence


def test_load_failure_when_triton_tells_of_it_among_its_own_words_then_is_the_stubs_sentence(tmp_path: Path) -> None:
    log = tmp_path / "triton.log"
    log.write_text(
        "error: creating server: Model 'x' loading failed with error: version 1 is at UNAVAILABLE state: Internal: "
        "CheckpointError: /c/config.json is of model type 'llama', not 'gpt_oss'\n  At:\n    /b/config.py(78)\n"
    )

    assert load_failure(log) == "/c/config.json is of model type 'llama', not 'gpt_oss'"
    assert load_failure(tmp_path / "none") is None


def test_remove_shared_memory_when_others_have_regions_then_takes_only_its_own(tmp_path: Path) -> None:
    for name in ("gptoss_1_a", "gptoss_1_b", "gptoss_12_c"):
        (tmp_path / name).touch()

    remove_shared_memory("gptoss_1_", tmp_path)

    assert [region.name for region in tmp_path.iterdir()] == ["gptoss_12_c"]


# --- addresses and probes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "api"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000/v1"),
        ("0.0.0.0", "http://127.0.0.1:8000/v1"),
        ("::", "http://[::1]:8000/v1"),
        ("fe80::1", "http://[fe80::1]:8000/v1"),
        ("example", "http://example:8000/v1"),
    ],
)
def test_addresses_when_the_host_means_every_address_then_are_ones_that_can_be_reached(host: str, api: str) -> None:
    assert Addresses.of(settings_with(host=host)).api == api


@pytest.fixture
def unready_server() -> Iterator[str]:
    class Unready(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/ready" else 503)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Unready) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="unready")
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_probe_when_asked_then_tells_ready_from_not_ready_from_not_there(
    unready_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # must not be heeded: it is this machine that is asked

    assert probe(f"{unready_server}/ready") == "ready"
    assert probe(f"{unready_server}/health") == "not ready (HTTP 503)"
    assert probe(f"http://127.0.0.1:{free_ports(1)[0]}/health") == "does not answer"


# --- ports ----------------------------------------------------------------------------------------------------------


def test_check_ports_when_all_are_free_then_returns_and_leaves_them_free() -> None:
    port = free_ports(1)[0]
    for _ in range(2):
        check_ports([Listener("the API", "127.0.0.1", port, "choose another")])


def test_check_ports_when_one_is_taken_then_names_it_its_purpose_and_the_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortError, match=rf"port {port} \(the API\) is taken by .*: choose another"):
            check_ports([Listener("the API", "127.0.0.1", port, "choose another")])


@pytest.mark.parametrize(
    ("server", "sentence"),
    [
        ({"port": 65534}, r"port 65536 \(Triton's metrics\) is past the last one, 65535"),
        ({"host": "192.0.2.1"}, "192.0.2.1 is not an address of this machine"),
        ({"host": "not an address"}, "not an address is no address to listen on"),
    ],
)
def test_check_ports_when_they_cannot_be_had_then_says_why(server: dict[str, object], sentence: str) -> None:
    with pytest.raises(PortError, match=sentence):
        check_ports(listeners(settings_with(**{"port": free_ports(1)[0], **server}).server))


def test_on_free_ports_when_a_host_has_none_at_all_then_says_so_at_once() -> None:
    with pytest.raises(PortError, match=r"^192\.0\.2\.1 is not an address of this machine"):
        on_free_ports(settings_with(host="192.0.2.1"))


def test_ports_when_there_are_several_replicas_then_each_has_its_own_and_a_clash_names_whose() -> None:
    settings = settings_with(port=free_ports(1)[0], num_replicas=3)
    found = on_free_ports(settings).server
    assert [listener.port for listener in listeners(found)] == list(range(found.port, found.port + 10))

    api, http = free_ports(2)
    clash = settings_with(port=api, triton_grpc_port=http - 3, triton_http_port=http, num_replicas=2).server
    with pytest.raises(PortError, match=rf"port {http} \(Triton 1's gRPC\) is also the port of Triton's HTTP"):
        check_ports([listener for listener in listeners(clash) if listener.port == http])


def test_check_ports_when_two_purposes_share_one_then_names_both() -> None:
    api, triton = free_ports(2)
    server = settings_with(port=api, triton_grpc_port=triton, triton_metrics_port=triton).server

    with pytest.raises(PortError, match=rf"port {triton} \(Triton's metrics\) is also the port of Triton's gRPC"):
        check_ports(listeners(server))


# --- checkpoints and GPUs -------------------------------------------------------------------------------------------


def test_absolute_when_given_a_folder_or_a_repository_then_only_the_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()

    assert absolute("20b", "openai/gpt-oss-20b") == "openai/gpt-oss-20b"
    assert absolute("20b", "mine") == str(tmp_path / "mine")
    assert absolute("20b", "./later") == str(tmp_path / "later")
    assert absolute("demo", "later") == str(tmp_path / "later")


def test_ensure_checkpoint_when_a_folder_holds_none_then_refuses(tmp_path: Path) -> None:
    missing = load_settings({"model": "20b", "checkpoints": {"20b": str(tmp_path)}}, environ={})

    with pytest.raises(UsageError, match="there is no checkpoint in"):
        ensure_checkpoints(missing, RunDirectory(tmp_path), StopSignal())


def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, exit_status: int = 0) -> dict[str, str]:
    """Put an nvidia-smi in place; returns the environment that finds it."""
    file = tmp_path / "bin" / "nvidia-smi"
    file.parent.mkdir()
    file.write_text(f"#!/bin/sh\n{answer}\nexit {exit_status}\n")
    file.chmod(0o755)
    path = f"{file.parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    return {"PATH": path}


@pytest.mark.parametrize(
    ("answer", "exit_status", "has_gpu"),
    [
        ("GPU 0: NVIDIA H100 (UUID: GPU-1)", 0, True),
        ("No devices found.", 0, False),
        ("No devices were found", 6, False),
    ],
)
def test_gpu_when_the_driver_is_asked_then_its_answer_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, exit_status: int, has_gpu: bool
) -> None:
    environment = driver(tmp_path, monkeypatch, f"echo '{answer}'", exit_status)

    assert has_nvidia_gpu(environment, devices=tmp_path / "none") is has_gpu


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("echo 'Unable to determine the device handle'", r"fails \(exit status 9\): Unable to determine"),
        ("sleep 60", "has not answered for"),
    ],
)
def test_gpu_when_the_driver_fails_or_hangs_then_it_is_no_machine_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, sentence: str
) -> None:
    monkeypatch.setattr(gpu, "_ANSWER_TIMEOUT_S", 0.5)
    environment = driver(tmp_path, monkeypatch, f"exec {answer}" if "sleep" in answer else answer, 9)

    with pytest.raises(DriverError, match=sentence):
        has_nvidia_gpu(environment, devices=tmp_path / "none")
    assert list_gpus(environment) == []
    assert not has_nvidia_gpu(environment | {"CUDA_VISIBLE_DEVICES": ""}, devices=tmp_path / "none")


@pytest.mark.parametrize("name", ["nvidia0", "nvidia5", "nvidia12"])
def test_gpu_when_the_device_is_there_then_only_hiding_it_makes_a_difference(tmp_path: Path, name: str) -> None:
    (tmp_path / "nvidiactl").touch()
    assert not has_nvidia_gpu({"PATH": str(tmp_path)}, tmp_path)
    (tmp_path / name).touch()

    assert has_nvidia_gpu({}, tmp_path)
    assert has_nvidia_gpu({"CUDA_VISIBLE_DEVICES": "0"}, tmp_path)
    assert not has_nvidia_gpu({"CUDA_VISIBLE_DEVICES": ""}, tmp_path)


# --- the run directory ----------------------------------------------------------------------------------------------


def test_claim_when_another_holds_it_then_refuses_and_is_free_again_afterwards(tmp_path: Path) -> None:
    with (
        RunDirectory(tmp_path).claim(),
        pytest.raises(RunningError, match="already runs"),
        RunDirectory(tmp_path).claim(),
    ):
        pass
    with RunDirectory(tmp_path).claim():
        pass


def test_claim_when_the_directory_cannot_be_made_then_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(CommandError, match="cannot write in the run directory"),
        RunDirectory(tmp_path / "file").claim(),
    ):
        pass


@pytest.mark.parametrize("content", ["", "{}", '{"phase": "asleep"}'])
def test_read_state_when_it_is_not_a_state_then_is_as_if_there_were_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)

    assert RunDirectory(tmp_path).read_state() is None


def test_config_when_written_then_only_its_owner_reads_the_secret_in_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.config.with_suffix(".new").touch(0o644)
    run.write_config(Settings())
    assert run.config.stat().st_mode & 0o777 == 0o600
    assert run.read_settings() == Settings()


def test_read_settings_when_another_version_wrote_them_then_says_what_to_do(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.config.write_text("server: {renamed: 1}")
    with pytest.raises(CommandError, match=r"server\.renamed: no such setting.*gptoss stop"):
        run.read_settings()


def test_supervise_when_a_model_cannot_be_placed_then_no_state_is_left_and_the_reason_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> str:
        raise UsageError("it does not fit")

    monkeypatch.setattr(serve, "place", refuse)
    run, stop = RunDirectory(tmp_path), StopSignal()
    run.write_state(RunState(Phase.PREPARING, ProcessRecord.of("supervisor", os.getpid()), 0.0, ""))
    with pytest.raises(UsageError):
        serve.supervise(Settings(), TritonRuntime(tmp_path), run, Diary(stop), stop)
    assert run.read_state() is None
    assert run.read_failure() == "it does not fit"


def test_new_log_when_there_was_one_then_keeps_it_once(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.logs.mkdir()
    for words in ("first", "second"):
        run.new_log("triton").write_text(words)

    assert not run.new_log("triton").exists()
    assert (run.logs / "triton.log.1").read_text() == "second"


def test_last_lines_when_a_log_ends_in_tables_then_passes_them_over_and_cuts_long_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"first\nE the reason\xff\n\n+---+\n| table |\n+===+\n" + b"x" * 500 + b"\n")

    assert last_lines(log, count=2, width=9) == ["E the rea", "x" * 9]
    assert last_lines(tmp_path / "none") == []
