"""Settings: where they come from, in which order, and what stops the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gptoss_backend.environment import child_environment
from gptoss_backend.settings import ServerSettings, Settings, SettingsError
from gptoss_backend.settings_sources import DEFAULT_CONFIG, load_settings

# null in the file, because they lie in the project's folder, wherever that is
IN_THE_PROJECT = {"checkpoints.demo", "server.run_dir", "server.model_repository"}


def flattened(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat.update(flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def file_with(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# --- the file in the repository -------------------------------------------------------------------------------------


def test_config_file_when_compared_with_the_model_then_lists_every_setting_with_its_default() -> None:
    document = yaml.safe_load(DEFAULT_CONFIG.read_text(encoding="utf-8"))
    defaults = Settings().model_dump(mode="json")

    written, meant = flattened(document), flattened(defaults)

    assert written.keys() == meant.keys()
    assert {key for key, value in written.items() if value != meant[key]} == IN_THE_PROJECT
    assert all(written[key] is None for key in IN_THE_PROJECT)


def test_config_file_when_read_then_says_why_of_every_setting() -> None:
    lines = DEFAULT_CONFIG.read_text(encoding="utf-8").splitlines()
    settings = [line for line in lines if line.partition("#")[0].partition(":")[2].strip() and "{" not in line]

    assert [line for line in settings if "#" not in line and "openai/gpt-oss" not in line] == []


# --- the order ------------------------------------------------------------------------------------------------------


def test_load_when_nothing_is_set_then_takes_the_file_of_the_repository() -> None:
    settings = load_settings(environ={})

    assert settings.server == ServerSettings()
    assert settings.served_model == "20b"
    assert settings.profiles["latency_first"].max_tokens == 1024


def test_load_when_a_setting_is_everywhere_then_the_command_line_wins_then_the_environment_then_the_file(
    tmp_path: Path,
) -> None:
    file = file_with(tmp_path, "server: {port: 1001, host: 10.0.0.1, triton_host: 10.0.0.1}")
    environ = {"GPTOSS_SERVER__PORT": "1002", "GPTOSS_SERVER__HOST": "10.0.0.2"}

    server = load_settings({"server": {"port": 1003, "host": None}}, config=file, environ=environ).server

    assert (server.port, server.host, server.triton_host) == (1003, "10.0.0.2", "10.0.0.1")


def test_load_when_the_environment_names_a_file_then_reads_it(tmp_path: Path) -> None:
    file = file_with(tmp_path, "model: 120b")

    assert load_settings(environ={"GPTOSS_CONFIG": str(file)}).served_model == "120b"


def test_load_when_a_file_is_empty_then_takes_the_defaults(tmp_path: Path) -> None:
    assert load_settings(config=file_with(tmp_path, "# nothing yet\n"), environ={}) == Settings()


def test_load_when_a_file_names_one_field_of_a_profile_then_its_others_keep_their_defaults(tmp_path: Path) -> None:
    named = "profiles: {latency_first: {temperature: 0.5}, balanced: {max_tokens: 64}}"

    profiles = load_settings(config=file_with(tmp_path, named), environ={}).profiles

    shipped = Settings().profiles
    assert profiles["latency_first"] == shipped["latency_first"].model_copy(update={"temperature": 0.5})
    assert profiles["balanced"] == shipped["balanced"].model_copy(update={"max_tokens": 64})
    assert profiles["quality_first"] == shipped["quality_first"]


def test_load_when_a_setting_that_may_be_null_is_null_then_it_is_so_whatever_a_weaker_source_says(
    tmp_path: Path,
) -> None:
    file = file_with(tmp_path, "profiles: {balanced: {max_tokens: 64}, latency_first: {max_tokens: null}}")
    environ = {"GPTOSS_PROFILES__BALANCED__MAX_TOKENS": "null"}

    profiles = load_settings(config=file, environ=environ).profiles

    assert (profiles["balanced"].max_tokens, profiles["latency_first"].max_tokens) == (None, None)
    assert profiles["latency_first"].max_num_seqs == 16


def test_load_when_a_setting_that_cannot_be_null_is_null_then_nothing_is_said_of_it(tmp_path: Path) -> None:
    file = file_with(tmp_path, "server: {port: 9000, run_dir: null}\nengine: null\nprofiles: {balanced: null}")

    settings = load_settings(config=file, environ={"GPTOSS_SERVER__PORT": "null"})

    assert (settings.server.port, settings.server.run_dir) == (9000, ServerSettings().run_dir)
    assert (settings.engine, settings.profiles) == (Settings().engine, Settings().profiles)


@pytest.mark.parametrize(("text", "value"), [("8", 8), ("null", None), ("", None)])
def test_load_when_a_variable_holds_a_number_or_nothing_then_it_is_read_as_yaml(text: str, value: int | None) -> None:
    assert load_settings(environ={"GPTOSS_ENGINE__NUM_THREADS": text}).engine.num_threads == value


def test_load_when_torch_dtype_is_set_then_it_overrides_the_file_but_not_our_own_variable(tmp_path: Path) -> None:
    file = file_with(tmp_path, "engine: {dtype: float32}")
    both = {"TORCH_DTYPE": "float16", "GPTOSS_ENGINE__DTYPE": "bfloat16"}

    assert load_settings(config=file, environ={"TORCH_DTYPE": "float16"}).engine.dtype == "float16"
    assert load_settings(config=file, environ=both).engine.dtype == "bfloat16"


def test_load_when_one_checkpoint_is_set_then_the_others_stay() -> None:
    checkpoints = load_settings({"checkpoints": {"20b": "/data/20b"}}, environ={}).checkpoints

    assert checkpoints["20b"] == "/data/20b"
    assert checkpoints["120b"] == "openai/gpt-oss-120b"


def test_served_model_when_the_profile_decides_then_a_model_that_is_asked_for_goes_before_it() -> None:
    assert load_settings({"profile": "quality_first"}, environ={}).served_model == "120b"
    assert load_settings({"profile": "quality_first", "model": "demo"}, environ={}).served_model == "demo"


def test_ports_when_only_the_first_is_set_then_triton_takes_the_next_three() -> None:
    server = load_settings({"server": {"port": 9000, "triton_http_port": 7000}}, environ={}).server

    assert (server.port, server.grpc_port, server.metrics_port, server.http_port) == (9000, 9001, 9002, 7000)


def test_ports_when_there_are_several_replicas_then_each_listens_three_further_and_the_adapter_knows_where() -> None:
    tree = {"server": {"port": 9000, "triton_http_port": 7000, "num_replicas": 3}}
    server = load_settings(tree, environ={}).server
    last = server.of_replica(2)

    assert (last.port, last.grpc_port, last.metrics_port, last.http_port) == (9000, 9007, 9008, 7006)
    assert server.replica_targets == ["127.0.0.1:9001", "127.0.0.1:9004", "127.0.0.1:9007"]
    assert server.of_replica(0).grpc_port == server.grpc_port
    assert ServerSettings(triton_host="::1", num_replicas=2).replica_targets == ["[::1]:8001", "[::1]:8004"]
    assert ServerSettings(num_replicas=1).replica_targets is None


def test_load_when_replicas_are_both_named_and_to_be_started_then_it_says_to_set_one() -> None:
    named = {"triton_replicas": ["10.0.0.1:8001"]}
    with pytest.raises(SettingsError, match=r"server: .*triton_replicas names .* num_replicas is .*: set one of them"):
        load_settings({"server": named | {"num_replicas": 2}}, environ={})
    assert load_settings({"server": named | {"num_replicas": 1}}, environ={}).server.replica_targets == [
        "10.0.0.1:8001"
    ]


# --- what is handed to other processes ------------------------------------------------------------------------------


def test_dump_when_read_back_then_gives_the_same_settings(tmp_path: Path) -> None:
    asked = {"model": "demo", "engine": {"kv_cache_bytes": 4096, "dtype": "float32"}, "server": {"port": 9000}}
    settings = load_settings(asked, environ={})

    assert load_settings(config=file_with(tmp_path, settings.dump_yaml()), environ={}) == settings


def test_child_environment_when_settings_are_in_ours_then_it_holds_only_the_file_of_the_resolved_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GPTOSS_SERVER__PORT", "1")
    monkeypatch.setenv("TORCH_DTYPE", "float16")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    environment = child_environment(Path("/run/config.yaml"))

    assert {name for name in environment if name.startswith("GPTOSS_")} == {"GPTOSS_CONFIG"}
    assert environment["GPTOSS_CONFIG"] == "/run/config.yaml"
    assert "TORCH_DTYPE" not in environment
    assert environment["OMP_NUM_THREADS"] == "2"


# --- what stops the start -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ("engine: {max_seqs: 8}", "engine.max_seqs: no such setting"),
        ("enigne: {}\nserver: {port: 0}", "server.port: .*greater than or equal to 1.*; enigne: no such setting"),
        ("engine: {max_seqs: null}", "engine.max_seqs: no such setting"),
        ("adapter: {max_schema_bytes: 131073}", "adapter.max_schema_bytes: .*less than or equal to 131072"),
        ("engine: {dtype: int8}", "engine.dtype: .*'auto', 'bfloat16', 'float16' or 'float32'"),
        ("server: 8000", "server: .*dictionary"),
        ("profiles: {fastest: {model: 20b}}", "profiles.fastest"),
        ("checkpoints: {7b: /data}", "checkpoints.7b"),
        ("checkpoints: {7b: null}", "checkpoints.7b"),
        ("server: {triton_config_name: two words}", "server.triton_config_name"),
        ("- a list", "must hold a mapping"),
        ("server: {port: ", "is not YAML"),
    ],
)
def test_load_when_a_key_of_the_file_is_unknown_or_malformed_then_names_it(
    tmp_path: Path, document: str, sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        load_settings(config=file_with(tmp_path, document), environ={})


@pytest.mark.parametrize(
    ("variable", "text", "sentence"),
    [
        ("GPTOSS_SEVRER__PORT", "1", "sevrer: no such setting"),
        ("GPTOSS_ENGINE__MAX_SEQS", "", "engine.max_seqs: no such setting"),
        ("GPTOSS_SERVER__PORT", "high", "server.port: .*integer"),
        ("GPTOSS_SERVER__PORT", "[1", "GPTOSS_SERVER__PORT does not hold a YAML value"),
        ("GPTOSS_SERVER", "8000", "server: .*dictionary"),
        ("GPTOSS_CONFIG", "/does/not/exist.yaml", "cannot read the settings file /does/not/exist.yaml: No such file"),
    ],
)
def test_load_when_a_variable_is_unknown_or_malformed_then_names_it(variable: str, text: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        load_settings({"server": {"host": None}}, environ={variable: text})


def test_load_when_a_section_and_its_setting_are_both_variables_then_does_not_fall_over() -> None:
    environ = {"GPTOSS_SERVER": "8000", "GPTOSS_SERVER__PORT": "9000"}

    assert load_settings(environ=environ).server.port == 9000


def test_settings_when_loaded_then_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings(environ={}).server.port = 1  # type: ignore[misc]
