"""The files of one repository in the local Hugging Face cache: fetched, gone on with, checked.

Stage: `gptoss pull`, before the library links a snapshot together.
Owns: a file's way into the cache. What has come of it lies beside its blob as `ETAG.incomplete`, a later pull goes on
at its end, and it gets its blob's name once its bytes have the SHA-256 that this name is (a small file's may be
another, and is taken on trust).
Does not know: which files make a checkpoint, what a person is told of a failure.

`huggingface_hub` 2 begins each file anew, under a name that a killed process leaves for ever (its issue 4196): a claim
whose pull was killed three times is full. So files come by its `http_get`, which can ask for the rest, and not by
hf_xet, which cannot.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from filelock import Timeout
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import tqdm

from gptoss_client.errors import CommandError

_NUM_AT_ONCE: Final = 8  # as the library: one connection is far from what a data centre's network carries
_HASH_PIECE_BYTES: Final = 1 << 24
_LOCK_PATIENCE_S: Final = 0.1
_SHA256: Final = re.compile("[0-9a-f]{64}")


class DamagedError(CommandError):
    """What came of a file is not what its checksum says."""


@dataclass(frozen=True)
class HubFile:
    """A file of the Hub. etag: the name of its blob, and of weights their SHA-256."""

    name: str
    url: str
    etag: str
    num_bytes: int


class RepositoryBlobs:
    """One repository's part of the cache (HF_HUB_CACHE), and the locks by which processes share it."""

    def __init__(self, repository: str) -> None:
        self._repository = repository
        folder = repo_folder_name(repo_id=repository, repo_type=constants.REPO_TYPE_MODEL)
        cache = Path(constants.HF_HUB_CACHE)
        self._folder = cache / folder
        self._blobs = self._folder / "blobs"
        self._locks = cache / ".locks" / folder

    def look_up(self, names: list[str], commit: str) -> list[HubFile]:
        """Ask the Hub for the etags and sizes of files. Blocks; raises what the transport raises.

        Those for which it has none, or too large for plain HTTP, are left out: the library has its own way to them.
        """
        with ThreadPoolExecutor(_NUM_AT_ONCE, "pull") as pool:
            asked = pool.map(lambda name: _look_up(self._repository, name, commit), names)
            return [file for file in asked if file is not None]

    def num_bytes_there(self, files: list[HubFile]) -> int:
        """Return how much of these has come already."""
        return sum(_size(self._part(file.etag)) for file in files)

    def delete_stale_parts(self, wanted: list[HubFile]) -> None:
        """Delete what killed processes left and nobody goes on with; what a living one works on is locked: kept."""
        kept = {self._part(file.etag) for file in wanted}
        for part in self._blobs.glob("*.incomplete"):
            if part not in kept:
                with suppress(Timeout), self._locked(part.name.partition(".")[0], _LOCK_PATIENCE_S):
                    part.unlink(missing_ok=True)

    def fetch(self, files: list[HubFile], tell: Callable[[str], None]) -> None:
        """Fetch what is not there of these, each checked. Blocks; raises what the transport and the disk raise.

        Raises DamagedError. Where it raises, what has come is kept, and what is under way goes on until the process
        ends. tell: gets a line for each file that is whole.
        """
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._locks.mkdir(parents=True, exist_ok=True)
        with _bar("fetching", sum(file.num_bytes for file in files), self.num_bytes_there(files)) as bar:
            _side_by_side(lambda file: self._fetch(file, bar, tell), files)

    def delete_damaged(self, tell: Callable[[str], None]) -> bool:
        """Read what is there, of every revision, and delete what its checksum does not fit; tell whether any was.

        Blocks, for minutes. tell: gets a line for each file that has a checksum.
        """
        found = False
        links = [link for link in self._folder.glob("snapshots/*/*") if link.is_symlink() and link.exists()]
        etags = {link.readlink().name: link for link in sorted(links) if _SHA256.fullmatch(link.readlink().name)}
        with _bar("checking", sum(_size(link) for link in etags.values())) as bar:
            for etag, link in etags.items():
                if self._is_whole(link, etag, bar.update):
                    tell(_whole(link.name, etag))
                else:
                    link.resolve().unlink()  # in a store that repositories share, the blob itself is a link to it
                    (self._blobs / etag).unlink(missing_ok=True)
                    tell(f"{link.name}: damaged, and deleted")
                    found = True
        return found

    def _fetch(self, file: HubFile, bar: tqdm, tell: Callable[[str], None]) -> None:
        part, blob = self._part(file.etag), self._blobs / file.etag
        with self._locked(file.etag):
            if blob.exists():  # another process was faster
                return
            with part.open("ab") as stream:
                if stream.tell() > file.num_bytes:
                    stream.truncate(0)
                    stream.seek(0)
                http_get(
                    file.url,
                    stream,
                    resume_size=stream.tell(),
                    # of packed bytes there is no rest to ask for
                    headers=build_hf_headers() | {"accept-encoding": "identity"},
                    expected_size=file.num_bytes,
                    _tqdm_bar=bar,
                )
            if not self._is_whole(part, file.etag):
                part.unlink()
                raise DamagedError(f"{file.name} came damaged, and is deleted: pull again")
            part.replace(blob)
        tell(_whole(file.name, file.etag))

    def _is_whole(self, path: Path, etag: str, read: Callable[[int], object] = lambda num_bytes: None) -> bool:
        """Tell whether a file's bytes are those its etag names; other etags than SHA-256 tell nothing of them."""
        if not _SHA256.fullmatch(etag):
            return True
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while piece := stream.read(_HASH_PIECE_BYTES):
                digest.update(piece)
                read(len(piece))
        return digest.hexdigest() == etag

    def _part(self, etag: str) -> Path:
        return self._blobs / f"{etag}.incomplete"

    def _locked(self, etag: str, timeout_s: float | None = None) -> AbstractContextManager[object]:
        """Hold what keeps other processes, the library's too, from a blob. Raises filelock.Timeout."""
        return WeakFileLock(self._locks / f"{etag}.lock", timeout=timeout_s)


def _side_by_side(work: Callable[[HubFile], None], files: list[HubFile]) -> None:
    """Do the work on each file, on several at once. Raises the first error, or Ctrl-C's, and waits for no other.

    A part may be cut off at any moment, so threads that wait on a network that is gone end with the process.
    """
    ended = SimpleQueue[Exception | None]()
    room = threading.Semaphore(_NUM_AT_ONCE)

    def work_on(file: HubFile) -> None:
        with room:
            try:
                work(file)
            except Exception as error:  # noqa: BLE001 (whatever the transport and the disk raise: the caller's to tell)
                ended.put(error)
            else:
                ended.put(None)

    for file in files:
        threading.Thread(target=work_on, args=(file,), name=f"pull-{file.name}", daemon=True).start()
    for _ in files:
        if error := ended.get():
            raise error


def _look_up(repository: str, name: str, commit: str) -> HubFile | None:
    url = hf_hub_url(repository, name, revision=commit)
    told = get_hf_file_metadata(url)
    if not told.etag or not told.size or told.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
        return None
    return HubFile(name, url, told.etag, told.size)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _whole(name: str, etag: str) -> str:
    return f"{name}: all there" + (", and its SHA-256 is right" if _SHA256.fullmatch(etag) else "")


def _bar(what: str, total: int, there: int = 0) -> tqdm:
    """Return a bar of bytes, which is drawn on terminals only."""
    return tqdm(  # type: ignore[no-untyped-call]
        desc=what, total=total, initial=there, unit="B", unit_scale=True, disable=None
    )
