"""The folders that the servers load: one random model, its experts in bfloat16 or MXFP4, so that all compute the same.

Stage: before a run.
Owns: where the folders are, and that they are there.
Does not know: servers.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from gptoss_backend.demo.random_checkpoint import SHAPES, ExpertFormat, write_random_checkpoint
from load.bench.environments import LLAMA_SOURCE
from load.bench.stream import PeerError
from load.bench.tokenizer import write_tokenizer

PROJECT: Final = Path(__file__).resolve().parents[2]
_FOLDER: Final = PROJECT / ".checkpoints"
_SEED: Final = 20
_SHAPES: Final = {
    "tiny": SHAPES["tiny"],
    "small": SHAPES["small"],
    "half-20b": replace(SHAPES["20b"], num_layers=12),  # of which two servers fit into 24 GB
}
NAMES: Final = tuple(_SHAPES)


def checkpoint(name: str, experts: ExpertFormat = "bfloat16") -> Path:
    """Return the folder of a named checkpoint, made where it is not there yet, with a tokenizer in it."""
    folder = _FOLDER / f"gpt-oss-{name}-{experts}"
    if not folder.exists():
        title = f"gpt-oss-{name}: random weights, not an OpenAI model"
        write_random_checkpoint(folder, _SHAPES[name], seed=_SEED, name=title, experts=experts)
    if not (folder / "tokenizer_config.json").exists():  # the last file to be written
        write_tokenizer(folder)
    return folder


def gguf(folder: Path) -> Path:
    """Return the checkpoint of `folder` in llama.cpp's format, converted by llama.cpp's own script where it is not yet.

    Matrices keep their formats. Raises PeerError.
    """
    file = folder.with_name(f"{folder.name}.gguf")
    if file.exists():
        return file
    partial = file.with_name(f"{file.name}.partial")
    script = LLAMA_SOURCE / "convert_hf_to_gguf.py"
    command = (sys.executable, str(script), str(folder), "--outtype", "bf16", "--outfile", str(partial))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"{script.name} failed: {done.stderr[-800:]}")
    partial.rename(file)
    return file
