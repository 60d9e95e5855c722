"""Random GPT-OSS checkpoints in the published layout (MXFP4 experts, the rest bfloat16).

Owns: named shapes and the writing of a folder that every GPT-OSS loader reads. Does not know: how numbers are drawn,
how a checkpoint is served.

The experts can be written as bfloat16 too, for loaders that know no MXFP4: the same numbers, in transformers' layout.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from gptoss_backend.demo.random_tensors import Normal, Ones, RandomTensor, UnpackedExperts, expert_matrix, num_bytes
from gptoss_backend.engine.checkpoint_files import INDEX_FILE
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import CheckpointError
from gptoss_backend.harmony.vocabulary import CALL, ENDOFTEXT, RETURN, VOCAB_SIZE

_END_TOKENS: Final = [RETURN, ENDOFTEXT, CALL]
_SPARE_BYTES: Final = 64 * 2**20  # headers, and what others write meanwhile
_GB: Final = 10**9
# a writer holds a piece or two, some 50 MB; more of them would only queue for the disk
_MOST_WRITERS: Final = 8

ExpertFormat = Literal["mxfp4", "bfloat16"]
Progress = Callable[[int, int], None]
"""Called with (bytes written, bytes in all), from several threads but never at the same time."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes in which GPT-OSS checkpoints differ."""

    hidden_size: int
    num_layers: int
    num_experts: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    head_dim: int = 64
    vocab_size: int = VOCAB_SIZE
    max_positions: int = 131072


SHAPES: Final = {
    "tiny": Shape(
        hidden_size=64, num_layers=2, num_experts=8, num_heads=4, num_kv_heads=2, intermediate_size=64, head_dim=32
    ),
    "small": Shape(hidden_size=512, num_layers=8, num_experts=32, num_heads=8, num_kv_heads=2, intermediate_size=512),
    "20b": Shape(hidden_size=2880, num_layers=24, num_experts=32, num_heads=64, num_kv_heads=8, intermediate_size=2880),
    "120b": Shape(
        hidden_size=2880, num_layers=36, num_experts=128, num_heads=64, num_kv_heads=8, intermediate_size=2880
    ),
}
"""tiny and small are what servers are compared with; 20b and 120b are OpenAI's sizes."""

DEMO_SHAPE: Final = Shape(
    hidden_size=64, num_layers=4, num_experts=8, num_heads=4, num_kv_heads=2, intermediate_size=64, head_dim=32
)
"""Of a demo without skills, for tests that want text which never ends by itself."""


def write_random_checkpoint(
    folder: Path,
    shape: Shape,
    *,
    seed: int,
    name: str,
    experts: ExpertFormat = "mxfp4",
    progress: Progress | None = None,
) -> None:
    """Write a checkpoint of random weights; the same seed gives the same bytes. One shard for each layer.

    name: kept in config.json, so that nobody takes the folder for a trained model.
    experts: how the experts' matrices are stored; their values are the same either way.
    The folder appears whole or not at all. Raises FileExistsError where it is there already, CheckpointError where
    the disk has no room for it.
    """
    shards = _shards(shape, experts)
    total = sum(num_bytes(tensor) for shard in shards for tensor in shard)
    with whole_folder(folder, total) as partial:
        files = {partial / f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors": s for n, s in enumerate(shards)}
        _write_shards(files, seed, _Tally(total, progress))
        _write_index(partial, files)
        write_documents(partial, config_document(shape, name, experts))


@contextmanager
def whole_folder(folder: Path, num_bytes: int) -> Iterator[Path]:
    """Give a folder to write into, which becomes `folder` at the end, or is removed where the writing fails.

    Waits while another process writes it. Raises FileExistsError where `folder` is there already, CheckpointError where
    the disk has no room for `num_bytes`.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    with _claimed(partial, folder):
        try:
            _check_disk(folder.parent, num_bytes)
            yield partial
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def _claimed(partial: Path, folder: Path) -> Iterator[None]:
    """Make an empty folder, and keep others who want to write `folder` waiting. Raises FileExistsError."""
    while (place := _locked(partial, folder)) is None:
        pass  # whoever had it was done with it just now
    try:
        for left in partial.iterdir():  # of a writer that was killed, which lets go of the lock
            left.unlink()
        yield
    finally:
        os.close(place)


def _locked(partial: Path, folder: Path) -> int | None:
    """Wait for a lock on a folder; None where that is no longer the folder of this name."""
    if folder.exists():
        raise FileExistsError(f"{folder} is there already")
    partial.mkdir(parents=True, exist_ok=True)
    place = None
    with suppress(FileNotFoundError):
        place = os.open(partial, os.O_RDONLY)
        fcntl.flock(place, fcntl.LOCK_EX)
        if os.path.samestat(os.fstat(place), partial.stat()):
            return place
    if place is not None:
        os.close(place)
    return None


def _check_disk(place: Path, total: int) -> None:
    free = shutil.disk_usage(place).free
    if total + _SPARE_BYTES > free:
        raise CheckpointError(
            f"the checkpoint takes {total / _GB:.1f} GB, but only {free / _GB:.1f} GB are free in {place}"
        )


# --- writing --------------------------------------------------------------------------------------------------------


class _Tally:
    """Counts bytes for all writers, and tells them when to give up."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.stopped = threading.Event()
        self._lock = threading.Lock()  # guards _done, and keeps calls of `progress` apart
        self._done = 0
        self._total = total
        self._progress = progress

    def add(self, count: int) -> None:
        """Note that bytes were written. Raises InterruptedError once another writer has failed."""
        if self.stopped.is_set():
            raise InterruptedError("the checkpoint's writing was given up")
        with self._lock:
            self._done += count
            if self._progress is not None:
                self._progress(self._done, self._total)


def _write_shards(files: Mapping[Path, Sequence[RandomTensor]], seed: int, tally: _Tally) -> None:
    with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), _MOST_WRITERS)) as writers:
        shards = [writers.submit(_write_shard, path, tensors, seed, tally) for path, tensors in files.items()]
        try:
            for shard in as_completed(shards):
                shard.result()
        except BaseException:
            tally.stopped.set()
            writers.shutdown(wait=False, cancel_futures=True)
            raise


def _write_shard(path: Path, tensors: Sequence[RandomTensor], seed: int, tally: _Tally) -> None:
    with path.open("wb") as file:
        file.write(_header(tensors))
        for tensor in tensors:
            for piece in tensor.draw(seed):
                file.write(piece.data)
                tally.add(piece.nbytes)


def _header(tensors: Sequence[RandomTensor]) -> bytes:
    """Return what precedes the numbers in a file (https://github.com/huggingface/safetensors#format)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + num_bytes(tensor)
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]}
    document = json.dumps(header, separators=(",", ":")).encode()
    document += b" " * (-len(document) % 8)  # the numbers begin at a multiple of eight
    return len(document).to_bytes(8, "little") + document


def _write_index(folder: Path, files: Mapping[Path, Sequence[RandomTensor]]) -> None:
    weight_map = {tensor.name: path.name for path, tensors in files.items() for tensor in tensors}
    total = sum(num_bytes(tensor) for tensors in files.values() for tensor in tensors)
    document = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(document, indent=1), encoding="utf-8")


def write_documents(folder: Path, config: dict[str, Any]) -> None:
    """Write config.json and generation_config.json."""
    generation = {
        "bos_token_id": 199998,
        "eos_token_id": _END_TOKENS,
        "pad_token_id": ENDOFTEXT,
        "do_sample": True,
    }
    for name, document in {"config.json": config, "generation_config.json": generation}.items():
        (folder / name).write_text(json.dumps(document, indent=1), encoding="utf-8")


# --- what is in it --------------------------------------------------------------------------------------------------


def config_of(shape: Shape) -> ModelConfig:
    """Return the architecture's numbers of a checkpoint of that shape."""
    return ModelConfig.from_document(config_document(shape, ""))


def _shards(shape: Shape, experts: ExpertFormat) -> list[list[RandomTensor]]:
    hidden = shape.hidden_size
    around: list[RandomTensor] = [
        Normal("model.embed_tokens.weight", (shape.vocab_size, hidden), std=1.0),
        Ones("model.norm.weight", (hidden,)),
        # logits with a spread of about 3: neither one token always nor all alike
        Normal("lm_head.weight", (shape.vocab_size, hidden), std=3.0 / math.sqrt(hidden)),
    ]
    return [around, *(_layer(shape, f"model.layers.{layer}", experts) for layer in range(shape.num_layers))]


def _layer(shape: Shape, prefix: str, experts: ExpertFormat) -> list[RandomTensor]:
    """Return a layer's tensors. What is normed stays of size 1 through every matrix, so activations do too."""
    hidden = shape.hidden_size
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    attention = f"{prefix}.self_attn"
    projections = {"q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden), "o": (hidden, queries)}
    return [
        *(Normal(f"{attention}.{n}_proj.weight", size, std=size[1] ** -0.5) for n, size in projections.items()),
        *(Normal(f"{attention}.{n}_proj.bias", size[:1], std=0.02) for n, size in projections.items()),
        Normal(f"{attention}.sinks", (shape.num_heads,), std=1.0),
        Ones(f"{prefix}.input_layernorm.weight", (hidden,)),
        Ones(f"{prefix}.post_attention_layernorm.weight", (hidden,)),
        Normal(f"{prefix}.mlp.router.weight", (shape.num_experts, hidden), std=hidden**-0.5),
        Normal(f"{prefix}.mlp.router.bias", (shape.num_experts,), std=0.02),
        *_experts(shape, f"{prefix}.mlp.experts", experts),
    ]


def _experts(shape: Shape, prefix: str, experts: ExpertFormat) -> list[RandomTensor]:
    hidden, inner = shape.hidden_size, shape.intermediate_size
    tensors: list[RandomTensor] = []
    for name, rows, columns in (("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)):
        size = (shape.num_experts, rows, columns)
        codes, scales = expert_matrix(f"{prefix}.{name}", size, std=columns**-0.5)
        tensors += [codes, scales] if experts == "mxfp4" else [UnpackedExperts(f"{prefix}.{name}", codes, scales)]
        tensors.append(Normal(f"{prefix}.{name}_bias", (shape.num_experts, rows), std=0.02))
    return tensors


def config_document(shape: Shape, name: str, experts: ExpertFormat = "mxfp4") -> dict[str, Any]:
    """Return what config.json holds for a checkpoint of that shape. name: what it calls itself."""
    kinds = ("sliding_attention", "full_attention")
    config = {
        "_name_or_path": name,
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": 200002,
        "pad_token_id": ENDOFTEXT if shape.vocab_size == VOCAB_SIZE else None,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "layer_types": [kinds[i % 2] for i in range(shape.num_layers)],
        "max_position_embeddings": shape.max_positions,
        "num_attention_heads": shape.num_heads,
        "num_experts_per_tok": 4,
        "experts_per_token": 4,
        "num_hidden_layers": shape.num_layers,
        "num_key_value_heads": shape.num_kv_heads,
        "num_local_experts": shape.num_experts,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": shape.vocab_size,
    }
    if experts == "mxfp4":
        unpacked = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
        config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": unpacked}
    return config
