"""`gptoss pull`: a checkpoint from the Hugging Face Hub into the local cache, where a server finds it offline.

Stage: before the first start of a server.
Owns: what is fetched, the look at the disk before it, and sentences for what keeps it from working.
Does not know: how files travel and are checked (hub_blobs.py), how a snapshot is laid out (`huggingface_hub`).
"""

from __future__ import annotations

import errno
import http
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from huggingface_hub import DryRunFileInfo, constants, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, tqdm
from rich.console import Console

from gptoss_backend.hub import CHECKPOINT_FILES, OTHER_FILES, cached_checkpoint, is_repository, split_revision
from gptoss_backend.settings import Settings
from gptoss_client.errors import CommandError, UsageError
from gptoss_client.hub_blobs import RepositoryBlobs

_GB: Final = 10**9
_FILES: Final[dict[str, Any]] = {"allow_patterns": list(CHECKPOINT_FILES), "ignore_patterns": list(OTHER_FILES)}
# what the disk, its folders and their limits can have against a file, as no network has
_LOCAL_FAULTS: Final = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE,
    }
)  # fmt: skip
_RUST_FAULT: Final = re.compile(r"\(os error (\d+)\)")  # as hf_xet has it, in the text of an error of no kind


class PullError(CommandError):
    """The Hub cannot be reached, or does not give what was asked for."""


def repository_of(name: str, settings: Settings) -> str:
    """Return the repository that a model's short name (as the settings have it) or a repository's name stands for.

    Raises UsageError.
    """
    checkpoints: dict[str, str] = {model: place for model, place in settings.checkpoints.items() if model != "demo"}
    repository = checkpoints.get(name, name)
    if name in checkpoints and not is_repository(repository):
        raise UsageError(f"the checkpoint of {name} is set to the folder {repository}: there is nothing to pull")
    if not is_repository(repository):
        raise UsageError(f"{name} is neither {' nor '.join(checkpoints)} nor a repository, OWNER/NAME[@REVISION]")
    return repository


def pull(repository: str, console: Console, *, if_absent: bool = False, verify: bool = False) -> Path:
    """Fetch what is not in the cache yet and return the checkpoint's folder. Blocks; raises CommandError.

    repository: OWNER/NAME[@REVISION]. if_absent: a checkpoint that is in the cache whole stays as it is, and the Hub is
    not asked. Where the Hub cannot be asked, it is as good. verify: what is there is read and, where it is damaged,
    fetched anew.
    """
    blobs = RepositoryBlobs(split_revision(repository)[0])
    is_damaged = verify and blobs.delete_damaged(tqdm.write)
    if if_absent and not is_damaged and (folder := cached_checkpoint(repository)):
        return folder
    _check_environment()
    try:
        wanted = _list_wanted(repository)
    except HFValidationError as error:
        raise UsageError(f"{repository} is not a repository's name: {error}") from error
    except Exception as error:  # whatever the transport raises
        # a dry run tells of the network's fault as the cause of its own
        told = error if isinstance(error, HfHubHTTPError) else error.__cause__ or error
        reason = _sentence(repository, told)
        folder = cached_checkpoint(repository)
        if folder is None or is_damaged:
            raise PullError(reason) from error
        console.print(f"{repository} is in the cache whole; no newer one was looked for, since {reason}")
        return folder
    if not any(file.filename == "config.json" for file in wanted):
        raise PullError(f"{repository} holds no config.json: it is not a checkpoint in Hugging Face's layout")
    return _fetch(repository, [file for file in wanted if file.will_download], blobs)


def _list_wanted(repository: str) -> list[DryRunFileInfo]:
    """Ask the Hub for the checkpoint's files, in silence: nothing is fetched yet."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what matters of its warnings, our sentences say
    name, revision = split_revision(repository)
    with _without_bars():
        files: list[DryRunFileInfo] = snapshot_download(name, revision=revision, dry_run=True, **_FILES)
    return files


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the library from drawing what it has to do, where it has nothing to fetch."""
    had_bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if had_bars:
            enable_progress_bars()


def _fetch(repository: str, absent: list[DryRunFileInfo], blobs: RepositoryBlobs) -> Path:
    name, revision = split_revision(repository)
    try:
        files = blobs.look_up([file.filename for file in absent], absent[0].commit_hash) if absent else []
        blobs.delete_stale_parts(files)
        _check_disk(sum(file.file_size or 0 for file in absent) - blobs.num_bytes_there(files))
        if files:
            blobs.fetch(files, tqdm.write)
        with _without_bars() if len(files) == len(absent) else nullcontext():
            return Path(snapshot_download(name, revision=revision, **_FILES))
    except CommandError:
        raise
    except Exception as error:  # whatever the transport raises
        raise PullError(_sentence(repository, error)) from error


def _check_environment() -> None:
    """Raise UsageError where a variable says what no request can be made with."""
    endpoint = urlsplit(constants.ENDPOINT)
    if endpoint.scheme not in ("http", "https") or not endpoint.hostname:
        raise UsageError(f"HF_ENDPOINT is {constants.ENDPOINT!r}: it begins with http:// or https:// and names a host")
    try:
        token = get_token()
    except OSError:  # the cache is below what is no folder, of which the listing tells
        return
    if token and not token.isascii():
        raise UsageError("the Hub's token (HF_TOKEN, or that of `hf auth login`) has characters that no token has")


def _check_disk(num_bytes: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if num_bytes > free:
        raise PullError(
            f"{num_bytes / _GB:.1f} GB are to come, but only {free / _GB:.1f} GB are free in {cache}: "
            "make room, or set HF_HOME to a folder on a larger disk"
        )


def _sentence(pinned: str, error: BaseException) -> str:
    """Return what keeps a repository from being fetched, and what to do. pinned: its name, and perhaps its revision."""
    hub = constants.ENDPOINT
    repository, revision = split_revision(pinned)
    if fault := _local_fault(error):
        cache = constants.HF_HUB_CACHE
        return f"cannot write in {cache} ({fault}): make room there, or set HF_HOME to a folder that can be written"
    match error:
        case GatedRepoError():
            return f"{repository} is gated: accept its terms at {hub}/{repository}, then log in with `hf auth login`"
        case RevisionNotFoundError():
            return f"{repository} has no revision {revision}: see {hub}/{repository}/commits/main"
        case RepositoryNotFoundError():
            return f"{hub} has no repository {repository}, or it is private: then log in with `hf auth login`"
        case HfHubHTTPError() if error.response.status_code in (
            http.HTTPStatus.UNAUTHORIZED,
            http.HTTPStatus.FORBIDDEN,
        ):
            return (
                f"{hub} refused {repository} (HTTP {error.response.status_code}): log in with `hf auth login`, "
                f"and where it is gated accept its terms at {hub}/{repository}"
            )
        case HfHubHTTPError():
            return f"{hub} answered HTTP {error.response.status_code} for {repository}: try again later"
        case _ if constants.HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE is set: unset it to pull"
        case ImportError():
            return "a SOCKS proxy is set (ALL_PROXY or HTTPS_PROXY): `pip install socksio` for it, or unset it"
        case ValueError():  # no JSON
            return f"what answers at {hub} is no Hub: is it a proxy, or a network's page to log in at?"
        case _:
            return (
                f"{hub} cannot be reached ({error}): pull again where there is a network, it goes on where it stopped"
            )


def _local_fault(error: BaseException | None) -> str | None:
    """Return what this machine has against the files, where that is at the bottom of an error."""
    while error is not None:
        told = _RUST_FAULT.search(str(error))
        number = int(told[1]) if told else getattr(error, "errno", None)
        if number in _LOCAL_FAULTS:
            return os.strerror(number)
        error = error.__cause__
    return None
