"""`gptoss pull` against a little Hub on a socket, and what a server finds offline afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from huggingface_hub.utils import WeakFileLock

from support.hub_server import COMMIT, LittleHub, etag, little_hub
from support.processes import wait_until
from support.stand_ins import free_ports

REPOSITORY = "someone/tiny"
WANTED = {"config.json": b'{"model_type": "gpt_oss"}', "model.safetensors": b"weights" * 1000}
OTHERS = {
    "original/config.json": b"{}",
    "original/model.safetensors": b"again",
    "metal/model.bin": b"again",
    "tokenizer.json": b"{}",
    "README.md": b"words",
}
FIND = "from gptoss_backend.hub import checkpoint_folder; print(checkpoint_folder({!r}))"
WITH_5000_BYTES_FREE = """
import shutil, sys
usage = shutil.disk_usage("/")
shutil.disk_usage = lambda place: usage._replace(free=5000)
from gptoss_client import cli
sys.argv = ["gptoss", "pull", "someone/tiny"]
sys.exit(cli.main())
"""


@pytest.fixture
def hub() -> Iterator[LittleHub]:
    with little_hub(REPOSITORY, WANTED | OTHERS) as hub:
        yield hub


class Person:
    """Runs commands with a cache of their own."""

    def __init__(self, home: Path, hub: LittleHub) -> None:
        self.home = home
        hidden = ("GPTOSS_", "HF_", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
        self._environment = {name: text for name, text in os.environ.items() if not name.startswith(hidden)}
        self._environment |= {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"}

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            (sys.executable, *command),
            env=self._environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def gptoss(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "gptoss_client.cli", *arguments, **variables)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = (sys.executable, "-m", "gptoss_client.cli", *arguments)
        return subprocess.Popen(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def found(self, name: str = REPOSITORY) -> str:
        """Return where an engine without a network finds the checkpoint."""
        return self.run("-c", FIND.format(name), HF_HUB_OFFLINE="1").stdout.strip()


@pytest.fixture
def person(tmp_path: Path, hub: LittleHub) -> Person:
    return Person(tmp_path / "home", hub)


def test_pull_when_a_model_is_named_then_its_checkpoint_only_is_in_the_cache(person: Person, hub: LittleHub) -> None:
    pulled = person.gptoss("pull", "20b", GPTOSS_CHECKPOINTS=f"{{20b: {REPOSITORY}}}")

    folder = person.home / "hub" / "models--someone--tiny" / "snapshots" / COMMIT
    assert pulled.returncode == 0, pulled.stderr
    assert sorted(pulled.stdout.splitlines()) == [
        f"20b is in {folder}",
        "config.json: all there",
        "model.safetensors: all there, and its SHA-256 is right",
    ]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == WANTED
    assert sorted(hub.fetched) == sorted(WANTED)
    assert person.found() == str(folder)


def test_pull_when_a_commit_is_named_then_it_is_what_is_fetched_and_what_is_served(
    person: Person, hub: LittleHub
) -> None:
    pinned = f"{REPOSITORY}@{COMMIT}"
    pulled = person.gptoss("pull", "20b", GPTOSS_CHECKPOINTS=f"{{20b: {pinned}}}")

    assert pulled.returncode == 0, pulled.stderr
    assert hub.asked
    assert not [path for path in hub.asked if COMMIT not in path], "nobody asks for the newest"
    assert person.found(pinned).endswith(f"/snapshots/{COMMIT}")
    assert person.found(f"{REPOSITORY}@{'f' * 40}") == "None", "another commit is another checkpoint"


def test_pull_when_there_is_no_such_revision_then_a_sentence_says_so(person: Person) -> None:
    pulled = person.gptoss("pull", f"{REPOSITORY}@v9")

    assert pulled.returncode == 1
    assert "someone/tiny has no revision v9: see http://" in pulled.stderr


def test_pull_when_only_what_is_absent_is_wanted_then_a_whole_checkpoint_is_kept_and_the_hub_not_asked(
    person: Person, hub: LittleHub
) -> None:
    first = person.gptoss("pull", "--if-absent", REPOSITORY)
    asked = len(hub.asked)
    second = person.gptoss("pull", "--if-absent", REPOSITORY)

    assert asked > 0
    assert len(hub.asked) == asked
    assert (second.returncode, second.stdout.splitlines()) == (0, first.stdout.splitlines()[-1:])


def test_pull_when_all_is_there_then_nothing_is_fetched_again_and_no_network_is_needed(
    person: Person, hub: LittleHub
) -> None:
    person.gptoss("pull", REPOSITORY)
    fetched = list(hub.fetched)

    again = person.gptoss("pull", REPOSITORY)
    alone = person.gptoss("pull", REPOSITORY, HF_ENDPOINT=f"http://127.0.0.1:{free_ports(1)[0]}")

    assert (again.returncode, alone.returncode) == (0, 0)
    assert hub.fetched == fetched
    assert f"{REPOSITORY} is in the cache whole" in alone.stdout


def test_pull_when_a_file_is_missing_then_the_rest_is_fetched_and_until_then_no_checkpoint_is_found(
    person: Person, hub: LittleHub
) -> None:
    person.gptoss("pull", REPOSITORY)
    folder = Path(person.found())
    (folder / "model.safetensors").resolve().unlink()
    (folder / "model.safetensors").unlink()
    halfway = person.found()
    hub.fetched.clear()

    person.gptoss("pull", REPOSITORY)

    assert halfway == "None"
    assert hub.fetched == ["model.safetensors"]
    assert person.found() == str(folder)


LARGE = bytes(range(256)) * 100_000
"""More than the two pieces of 10 MiB in which the library writes."""
PIECE = 10 * 1024 * 1024


def blobs(person: Person) -> Path:
    return person.home / "hub" / "models--someone--tiny" / "blobs"


def test_pull_when_it_was_killed_then_the_next_goes_on_with_each_file_and_nothing_of_the_first_stays(
    person: Person, hub: LittleHub
) -> None:
    hub.files["model.safetensors"], hub.stalls_after = LARGE, 2 * PIECE
    part = blobs(person) / f"{etag('model.safetensors', LARGE)}.incomplete"
    with person.start("pull", REPOSITORY) as killed:
        wait_until(lambda: part.exists() and part.stat().st_size == 2 * PIECE)
        killed.kill()
    hub.stalls_after = None
    left_by_the_library = part.with_name(f"{part.stem}.01234567.incomplete")
    left_by_the_library.write_bytes(b"half")

    pulled = person.gptoss("pull", REPOSITORY)

    assert pulled.returncode == 0, pulled.stderr
    assert hub.ranges == [f"bytes={2 * PIECE}-"]
    assert (Path(person.found()) / "model.safetensors").read_bytes() == LARGE
    assert not list(blobs(person).glob("*.incomplete"))


def test_pull_when_ctrl_c_is_pressed_while_nothing_comes_then_it_ends_at_once_and_keeps_what_has_come(
    person: Person, hub: LittleHub
) -> None:
    hub.files["model.safetensors"], hub.stalls_after = LARGE, PIECE
    part = blobs(person) / f"{etag('model.safetensors', LARGE)}.incomplete"
    with person.start("pull", REPOSITORY) as stopped:
        wait_until(lambda: part.exists() and part.stat().st_size == PIECE)
        stopped.send_signal(signal.SIGINT)
        output, _ = stopped.communicate(timeout=8)  # less than the library waits for a byte
    hub.stalls_after = None

    assert stopped.returncode == 130
    assert output.endswith("stopped; the same command goes on where this one was\n")
    assert part.stat().st_size == PIECE


def test_pull_when_another_process_fetches_a_file_then_its_part_is_left_alone(person: Person) -> None:
    etag_of_another = "0" * 64
    part = blobs(person) / f"{etag_of_another}.89abcdef.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half")
    locks = person.home / "hub" / ".locks" / "models--someone--tiny"
    locks.mkdir(parents=True)

    with WeakFileLock(locks / f"{etag_of_another}.lock"):
        person.gptoss("pull", REPOSITORY)
        is_kept = part.exists()
    person.gptoss("pull", REPOSITORY)

    assert is_kept
    assert not part.exists()


def test_pull_when_most_has_come_then_the_disk_needs_room_for_the_rest_only(person: Person, hub: LittleHub) -> None:
    part = blobs(person) / f"{etag('model.safetensors', WANTED['model.safetensors'])}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(WANTED["model.safetensors"][:3000])

    pulled = person.run("-c", WITH_5000_BYTES_FREE)

    assert pulled.returncode == 0, pulled.stderr
    assert hub.ranges == ["bytes=3000-"]


def test_pull_when_weights_come_damaged_then_they_are_no_checkpoint_and_the_next_begins_anew(
    person: Person, hub: LittleHub
) -> None:
    part = blobs(person) / f"{etag('model.safetensors', WANTED['model.safetensors'])}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"Weights")

    refused = person.gptoss("pull", REPOSITORY)
    halfway = person.found()
    again = person.gptoss("pull", REPOSITORY)

    assert (refused.returncode, refused.stderr) == (
        1,
        "error: model.safetensors came damaged, and is deleted: pull again\n",
    )
    assert halfway == "None"
    assert again.returncode == 0, again.stderr
    assert (Path(person.found()) / "model.safetensors").read_bytes() == WANTED["model.safetensors"]


def test_pull_when_asked_to_verify_then_what_the_disk_has_damaged_is_fetched_anew(
    person: Person, hub: LittleHub
) -> None:
    person.gptoss("pull", REPOSITORY)
    weights = Path(person.found()) / "model.safetensors"
    right = person.gptoss("pull", "--verify", "--if-absent", REPOSITORY)
    weights.write_bytes(b"Weights" + weights.read_bytes()[7:])  # of the same size
    hub.fetched.clear()

    mended = person.gptoss("pull", "--verify", "--if-absent", REPOSITORY)

    assert right.stdout.startswith("model.safetensors: all there, and its SHA-256 is right\n")
    assert mended.stdout.startswith("model.safetensors: damaged, and deleted\n")
    assert (mended.returncode, hub.fetched) == (0, ["model.safetensors"])
    assert weights.read_bytes() == WANTED["model.safetensors"]


def test_pull_when_it_cannot_be_then_says_why_in_a_sentence(person: Person, hub: LittleHub) -> None:
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    unreachable = person.gptoss("pull", REPOSITORY, HF_ENDPOINT=nowhere)
    offline = person.gptoss("pull", REPOSITORY, HF_HUB_OFFLINE="1")
    absent = person.gptoss("pull", "someone/else")
    nonsense = person.gptoss("pull", "7b")
    folder = person.gptoss("pull", "20b", GPTOSS_CHECKPOINTS="{20b: /data/here}")
    hub.is_gated = True
    gated = person.gptoss("pull", REPOSITORY)

    assert unreachable.stderr.startswith(f"error: {nowhere} cannot be reached (")
    assert offline.stderr == "error: HF_HUB_OFFLINE is set: unset it to pull\n"
    assert absent.stderr.startswith(f"error: {hub.url} has no repository someone/else, or it is private")
    assert nonsense.stderr == "error: 7b is neither 20b nor 120b nor a repository, OWNER/NAME[@REVISION]\n"
    assert folder.stderr == "error: the checkpoint of 20b is set to the folder /data/here: there is nothing to pull\n"
    assert gated.stderr.startswith(f"error: {REPOSITORY} is gated: accept its terms at {hub.url}/{REPOSITORY}")
    runs = (unreachable, offline, absent, gated, nonsense, folder)
    assert [run.returncode for run in runs] == [1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("variables", "status", "words"),
    [
        ({"HF_ENDPOINT": "huggingface.co"}, 2, "HF_ENDPOINT is 'huggingface.co': it begins with http:// or https://"),
        ({"HF_TOKEN": "hf_é"}, 2, "the Hub's token (HF_TOKEN, or that of `hf auth login`) has characters that no"),
        ({"HF_HOME": f"{__file__}/home"}, 1, f"cannot write in {__file__}/home/hub (Not a directory): make room"),
    ],
)
def test_pull_when_a_variable_is_wrong_then_names_it(
    person: Person, variables: dict[str, str], status: int, words: str
) -> None:
    refused = person.gptoss("pull", REPOSITORY, **variables)

    assert (refused.returncode, refused.stdout) == (status, "")
    assert refused.stderr.startswith(f"error: {words}")


@pytest.mark.skipif(find_spec("socksio") is not None, reason="SOCKS proxies are known here")
def test_pull_when_a_socks_proxy_is_set_then_says_what_it_takes(person: Person) -> None:
    assert "`pip install socksio`" in person.gptoss("pull", REPOSITORY, ALL_PROXY="socks5://127.0.0.1:9").stderr


@pytest.mark.parametrize(
    ("refusal", "words"),
    [(200, "is no Hub"), (401, "(HTTP 401): log in with `hf auth login`"), (403, "(HTTP 403): log in with")],
)
def test_pull_when_another_answers_in_the_hubs_place_then_says_so(
    person: Person, hub: LittleHub, refusal: int, words: str
) -> None:
    hub.refusal = refusal

    refused = person.gptoss("pull", REPOSITORY)

    assert refused.returncode == 1
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr


def test_pull_when_a_file_may_not_be_written_then_the_disk_is_blamed_not_the_network(person: Person) -> None:
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)); "
        "from gptoss_client import cli; sys.argv = ['gptoss', 'pull', 'someone/tiny']; sys.exit(cli.main())"
    )

    refused = person.run("-c", program, PYTHONDONTWRITEBYTECODE="1")

    assert refused.returncode == 1
    assert f"error: cannot write in {person.home / 'hub'} (File too large): make room" in refused.stderr


def test_pull_when_the_disk_is_too_small_then_nothing_is_fetched(person: Person, hub: LittleHub) -> None:
    refused = person.run("-c", WITH_5000_BYTES_FREE)

    assert refused.returncode == 1
    assert "are free in" in refused.stderr
    assert "HF_HOME" in refused.stderr
    assert hub.fetched == []


def test_pull_when_a_repository_is_no_checkpoint_then_says_so(tmp_path: Path) -> None:
    with little_hub(REPOSITORY, {"README.md": b"words"}) as hub:
        refused = Person(tmp_path, hub).gptoss("pull", REPOSITORY)

    assert refused.stderr.startswith(f"error: {REPOSITORY} holds no config.json")


@pytest.mark.parametrize(
    ("options", "remedy"),
    [(("--model", "20b"), "gptoss pull 20b"), (("--model", "20b", "--checkpoint", "a/b"), "gptoss pull a/b")],
)
def test_serve_when_the_checkpoint_is_not_in_the_cache_then_says_how_to_get_it(
    person: Person, tmp_path: Path, options: tuple[str, ...], remedy: str
) -> None:
    port = str(free_ports(1)[0])

    refused = person.gptoss("serve", "--auto-port", "--port", port, "--run-dir", str(tmp_path / "run"), *options)

    assert refused.returncode == 2
    assert refused.stderr.endswith(f"in the local Hugging Face cache: {remedy}\n")
