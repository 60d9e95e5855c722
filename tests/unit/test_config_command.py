"""`gptoss config`: where each setting comes from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from gptoss_backend.settings import Settings
from gptoss_backend.settings_sources import load_settings, setting_layers
from gptoss_client.config_command import SourcedSetting, as_table, sourced_settings


def sourced(config: Path, environ: dict[str, str], overrides: dict[str, object]) -> dict[str, SourcedSetting]:
    settings = load_settings(overrides, config=config, environ=environ)
    layers = setting_layers(overrides, config=config, environ=environ)
    return {entry.key: entry for entry in sourced_settings(settings, layers)}


def file_with(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_source_when_several_speak_of_a_setting_then_it_is_the_strongest(tmp_path: Path) -> None:
    nulls = "num_threads: null, block_size: null"
    config = file_with(tmp_path, f"engine: {{max_num_seqs: 3, max_queue: 4, dtype: float32, {nulls}}}")
    environ = {"GPTOSS_ENGINE__MAX_QUEUE": "5", "GPTOSS_SERVER__PORT": "9000", "TORCH_DTYPE": "float16"}

    found = sourced(config, environ, {"server": {"port": 9100, "host": None}})

    told = {key: (entry.value, entry.source) for key, entry in found.items()}
    assert told["engine.max_num_seqs"] == (3, f"file {config}")
    assert told["engine.max_queue"] == (5, "environment variable GPTOSS_ENGINE__MAX_QUEUE")
    assert told["engine.dtype"] == ("float16", "environment variable TORCH_DTYPE")
    assert told["engine.num_threads"] == (None, f"file {config}")
    assert told["engine.block_size"] == (16, "default")
    assert told["server.port"] == (9100, "command line")
    assert told["server.host"] == ("127.0.0.1", "default")
    assert told["profiles.balanced.model"] == ("20b", "default")


def test_settings_when_told_then_none_is_left_out(tmp_path: Path) -> None:
    found = sourced(file_with(tmp_path, ""), {}, {})

    assert {entry.source for entry in found.values()} == {"default"}
    for section, fields in Settings().model_dump().items():
        keys = [f"{section}.{name}" for name in fields] if isinstance(fields, dict) else [section]
        assert all(any(told == key or told.startswith(f"{key}.") for told in found) for key in keys)


def test_value_when_it_is_secret_then_it_is_masked(tmp_path: Path) -> None:
    document = (
        "checkpoints: {20b: 'https://me:hidden@host/folder'}\nplacement: {secret: hidden-too}\n"
        "adapter: {mcp_servers: {docs: 'http://host/mcp', crm: {url: 'http://crm/mcp', headers: {X-Key: hidden}}}}"
    )

    found = sourced(file_with(tmp_path, document), {}, {})

    assert found["checkpoints.20b"].value == "https://***@host/folder"
    assert found["placement.secret"].value == "***"
    assert found["adapter.mcp_servers.docs.url"].source.startswith("file ")
    assert found["adapter.mcp_servers.crm.headers.X-Key"].value == "***"
    assert "hidden" not in "\n".join(as_table(list(found.values())))


def test_table_when_printed_then_its_columns_are_aligned() -> None:
    lines = as_table([SourcedSetting("a", 1, "default"), SourcedSetting("a.longer.key", "text", "command line")])

    assert lines == ["a             1       default", 'a.longer.key  "text"  command line']


def test_command_when_given_the_options_of_serve_then_shows_what_serve_would_use() -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GPTOSS_")}
    command = [sys.executable, "-m", "gptoss_client.cli", "config"]

    def run(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *options], env=environment | variables, capture_output=True, text=True, timeout=60, check=False
        )

    shown = run("--json", "--model", "120b", "--checkpoint", "/data/big")
    refused = run(GPTOSS_ENGINE__MAX_SEQS="8")

    told = {entry["key"]: entry for entry in json.loads(shown.stdout)}
    assert told["checkpoints.120b"] == {"key": "checkpoints.120b", "value": "/data/big", "source": "command line"}
    assert (refused.returncode, refused.stderr) == (2, "error: engine.max_seqs: no such setting\n")
