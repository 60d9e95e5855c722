"""The draft head: its arithmetic, what is said of a folder that does not fit, and that answers stay the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptoss_backend.contract import SamplingParams
from gptoss_backend.demo.random_head import write_random_head
from gptoss_backend.engine.batch import Batch, ScheduledSequence
from gptoss_backend.engine.cache_plan import CacheLimits
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.eagle.config import HeadConfig
from gptoss_backend.engine.eagle.weights import check_head, load_head
from gptoss_backend.engine.errors import CheckpointError, EngineError
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.loading import attach_head, load_model
from gptoss_backend.engine.observations import EngineStats
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.placement.options import PlacementOptions
from gptoss_backend.engine.sequence import GenerationRequest, Sequence
from gptoss_backend.engine.speculation import Speculation
from gptoss_backend.engine.torch_model import TorchModel
from support.fake_model import FakeModel
from support.generating import generate
from support.plain_head import PlainHead
from support.reference import make_reference
from support.stepping import CPU, load_torch_model, prompt_of

LIMITS = CacheLimits(block_size=16, num_rows=4, max_step_tokens=64, max_model_len=256, kv_cache_bytes=2**24)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    make_reference("base", tmp_path / "target")
    return tmp_path / "target"


def make_head(target: Path, **changes: object) -> Path:
    """Write a random head beside a model; changes: of its config.json."""
    folder = target.with_name("head")
    write_random_head(folder, ModelConfig.from_folder(target), seed=3, draft_vocab_size=300)
    return edit_config(folder, **changes)


def edit_config(folder: Path, **changes: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def edit_tensors(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def model_with(target: Path, head: Path | None) -> TorchModel:
    model = load_torch_model(target)
    if head is not None:
        attach_head(model, str(head), 2)
    return model


class Drafting:
    """One sequence computed in given chunks; `guess` asks the head after each."""

    def __init__(self, model: TorchModel, cache: KVCache, token_ids: list[int]) -> None:
        self._model, self._cache = model, cache
        self.sequence = Sequence(GenerationRequest("one", token_ids, SamplingParams()), max_tokens=100)
        self.sequence.row, self.sequence.num_computed = cache.open(token_ids)

    def compute(self, count: int) -> None:
        sequence = self.sequence
        self._cache.reserve(sequence.row, sequence.num_computed + count)
        batch = Batch.build([], [ScheduledSequence(sequence, count, samples=True)])
        self._model.forward(batch, self._cache, with_logits=False)
        sequence.num_computed += count
        self._cache.commit(sequence.row, sequence.token_ids, sequence.num_computed)

    def guess(self, num_tokens: int) -> list[int]:
        self._cache.reserve(self.sequence.row, self.sequence.num_computed + 1 + num_tokens)
        return self._model.draft(Batch.build([self.sequence], []), self._cache, num_tokens)[0]


def cache_of(model: TorchModel) -> KVCache:
    plan = model.plan_cache(LIMITS)
    model.allocate_cache(plan)
    return KVCache(plan, model.config.sliding_window)


# --- what a head computes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_before_residual": True},
        {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 2, 3]}},  # after these layers
        {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 2, 3]}},  # before them
        {"norm_before_fc": True},
        {"own embedding": True},
    ],
)
def test_draft_when_a_prompt_came_in_chunks_then_it_is_what_a_plain_head_says_of_the_whole(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    reference = make_reference("base", tmp_path / "target")
    folder = make_head(tmp_path / "target", **changes)
    if "norm_before_fc" in changes:
        edit_tensors(folder, lambda tensors: tensors.update({"input_norm.weight": torch.rand(3 * 64) + 0.5}))
    if "own embedding" in changes:
        edit_tensors(folder, lambda tensors: tensors.update({"embed_tokens.weight": torch.randn(512, 64)}))
    model = model_with(tmp_path / "target", folder)
    boundaries = HeadConfig.from_folder(folder, model.config).boundaries
    if boundaries[2] == model.config.num_layers:  # transformers gives the last state with the last norm
        boundaries = (2, 3, 3)
        edit_config(folder, eagle_config={"eagle_aux_hidden_state_layer_ids": list(boundaries)})
        model = model_with(tmp_path / "target", folder)
    plain = PlainHead(folder, boundaries)
    tokens = prompt_of(38, seed=1)
    drafting = Drafting(model, cache_of(model), tokens)
    for count in (1, 20, 15, 1):  # the last token is pending
        drafting.compute(count)
        known = drafting.sequence.num_computed + 1
        drafting.sequence.token_ids = drafting.sequence.token_ids[:known]
        assert drafting.guess(4) == plain.guess(reference, tokens[:known], 4)
        drafting.sequence.token_ids.extend(tokens[known:])


def test_draft_when_a_prefix_was_found_in_the_cache_then_it_is_what_it_is_without(target: Path) -> None:
    model = model_with(target, make_head(target))
    shared = prompt_of(33, seed=1)
    asked = [*shared[:32], 9, 10]
    alone = Drafting(model, cache_of(model), asked)
    alone.compute(33)
    expected = alone.guess(4)

    cache = cache_of(model)
    other = Drafting(model, cache, [*shared, 7])
    other.compute(33)
    other.guess(4)
    found = Drafting(model, cache, asked)
    assert found.sequence.num_computed == 32
    found.compute(1)
    assert found.guess(4) == expected


# --- what is said of a folder ---------------------------------------------------------------------------------------


def load(target: Path, head: Path) -> None:
    load_head(head, ModelConfig.from_folder(target), torch.float32, CPU)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 128}, "is for states of width 128, but the model has 64"),
        ({"vocab_size": 600}, "is for a vocabulary of 600, but the model has 512"),
        ({"draft_vocab_size": 600}, "guesses more tokens than its vocabulary has"),
        ({"num_hidden_layers": 2}, "has 2 layers; only heads of one layer are computed here"),
        ({"hidden_act": "gelu"}, "activation is 'gelu', not 'silu'"),
        ({"num_key_value_heads": 3}, "attention heads that cannot be shared evenly"),
        ({"norm_output": True}, "asks for norm_output, which is not computed here"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [2, 3]}}, "reads 2 of the model's states, not 3"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [2, 3, 5]}}, "reads layers that the model does not"),
        ({"target_hidden_size": 96}, "of another width than the model"),
        ({"intermediate_size": 100}, r"midlayer.mlp.\w+_proj.weight has shape .*, config.json asks"),
        ({"intermediate_size": None}, "holds a value of the wrong type"),
    ],
)
def test_load_when_config_json_does_not_fit_then_one_sentence_says_what(
    target: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        load(target, make_head(target, **changes))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda tensors: tensors.pop("fc.weight"), "lacks fc.weight"),
        (lambda tensors: (tensors.pop("norm.weight"), tensors.pop("d2t")), "lacks d2t, norm.weight"),
        (lambda tensors: tensors.update({"fc.bias": torch.zeros(64)}), "has what is not computed here: fc.bias"),
        (lambda tensors: tensors["d2t"].add_(400), "d2t names tokens that the model does not have"),
    ],
)
def test_load_when_tensors_do_not_fit_then_one_sentence_names_them(
    target: Path, edit: Callable[[dict[str, Tensor]], object], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        load(target, edit_tensors(make_head(target), edit))


def test_load_when_there_is_no_config_json_then_says_so(target: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="cannot read"):
        load(target, tmp_path / "empty")


def test_write_when_the_seed_is_the_same_then_so_are_the_bytes(target: Path) -> None:
    head = make_head(target)
    again = head.with_name("again")
    write_random_head(again, ModelConfig.from_folder(target), seed=3, draft_vocab_size=300)
    assert (again / "model.safetensors").read_bytes() == (head / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError):
        write_random_head(again, ModelConfig.from_folder(target), seed=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_check_when_a_head_is_whole_then_its_size_is_what_loading_takes(target: Path, dtype: torch.dtype) -> None:
    head, config = make_head(target), ModelConfig.from_folder(target)
    _, weights = load_head(head, config, dtype, CPU)
    parts = [getattr(weights, field.name) for field in fields(weights)]
    taken = sum(part.numel() * part.element_size() for part in parts if part is not None)
    assert check_head(head, config, dtype.itemsize) == taken


@pytest.mark.parametrize(
    ("options", "placement", "said"),
    [
        ({"cpu_kernels": "torch"}, PlacementOptions(mode="tensor", num_devices=2), "placement is tensor"),
        ({}, PlacementOptions(mode="pipeline", num_devices=2), "placement is pipeline"),
        ({"dtype": "float16", "cpu_kernels": "torch"}, None, "outgrow float16"),
        ({}, None, "checkpoint folder nowhere does not exist"),
    ],
)
def test_load_model_when_it_takes_no_head_then_one_sentence_says_why(
    target: Path, options: dict[str, Any], placement: PlacementOptions | None, said: str
) -> None:
    with pytest.raises(EngineError, match=said):
        load_model(
            target,
            EngineOptions(speculation=Speculation(4, max_seqs=2, head="nowhere"), **options),
            device=CPU,
            placement=placement,
        )


def test_load_model_when_the_kernels_are_native_then_a_head_is_refused(target: Path) -> None:
    with pytest.raises(
        EngineError, match=r"cpu_kernels is native, but engine\.speculation_head is set, and the kernels"
    ):
        load_model(
            target,
            EngineOptions(speculation=Speculation(4, max_seqs=2, head="nowhere"), cpu_kernels="native"),
            device=CPU,
        )


# --- answers --------------------------------------------------------------------------------------------------------

OPTIONS = EngineOptions(max_num_seqs=4, prefill_chunk_tokens=16, kv_cache_bytes=2**23, max_model_len=256)


def answers(
    target: Path, head: Path | None, prompts: list[list[int]], num_tokens: int, options: EngineOptions = OPTIONS
) -> tuple[list[list[int]], EngineStats]:
    options = replace(options, speculation=None if head is None else Speculation(4, max_seqs=2, head=str(head)))
    return generate(model_with(target, head), prompts, num_tokens, options, ignore_eos=True)


def test_answers_when_a_random_head_guesses_then_they_are_the_same(target: Path) -> None:
    shared = prompt_of(40, seed=1)
    # several chunks, prefixes found, one token only; with four at once the head only listens
    prompts = [shared + prompt_of(3, seed=2), shared + prompt_of(9, seed=3), [5], prompt_of(50, seed=4)]
    head = make_head(target)
    for asked in (prompts[:1], prompts[:2], prompts):
        plain, _ = answers(target, None, asked, 20)
        guessed, stats = answers(target, head, asked, 20)
        assert guessed == plain
        assert stats.num_drafted_tokens > (20 if len(asked) <= 2 else 0)
    assert stats.num_prefix_hits >= 32


def test_answers_when_sequences_are_preempted_then_they_are_the_same(target: Path) -> None:
    prompts = [prompt_of(30, seed=1), prompt_of(30, seed=2)]
    tight = replace(OPTIONS, max_num_seqs=2, max_model_len=96)
    plain, _ = answers(target, None, prompts, 60, tight)
    model = model_with(target, make_head(target))
    plan = model.plan_cache(replace(LIMITS, num_rows=2, max_step_tokens=18, max_model_len=96))
    # seven blocks of 16: one whole sequence, not two
    model.plan_cache = lambda limits: replace(plan, num_full_blocks=8)  # type: ignore[method-assign]
    guessed, stats = generate(
        model, prompts, 60, replace(tight, speculation=Speculation(4, max_seqs=2)), ignore_eos=True
    )
    assert guessed == plain
    assert stats.num_preemptions > 0
    assert stats.num_drafted_tokens > 0


class AllKnowing(FakeModel):
    """Guesses what it is about to say."""

    can_draft = True

    def draft(self, batch: Batch, cache: object, num_tokens: int) -> list[list[int]]:
        """Name each token's successors."""
        return [[(token + 1 + i) % self.config.vocab_size for i in range(num_tokens)] for token in batch.token_ids]


def test_answers_when_the_head_is_always_right_then_a_step_gives_as_many_tokens_as_it_guessed_and_one() -> None:
    options = replace(OPTIONS, speculation=Speculation(4, max_seqs=2))
    tokens, stats = generate(AllKnowing(), [[5, 9]], 51, options, ignore_eos=True)
    assert tokens == [[(9 + 1 + i) % 512 for i in range(51)]]
    assert stats.num_steps == 1 + 10  # the prompt, then five tokens a step
    assert (stats.num_drafted_tokens, stats.num_accepted_tokens) == (40, 40)
