"""The forward pass against transformers' eager GptOss in float32."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import GptOssForCausalLM

from gptoss_backend.engine.cache_plan import CacheLimits, plan_cache
from gptoss_backend.engine.model import Model
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.torch_model import TorchModel
from support.generating import generate
from support.reference import SHAPES, follows_greedily, make_reference, reference_logits
from support.stepping import StepByStep, load_torch_model, prompt_of

NUM_DECODED = 300


@pytest.fixture(scope="module", params=sorted(SHAPES))
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[GptOssForCausalLM, TorchModel]:
    folder = tmp_path_factory.mktemp("checkpoint")
    reference = make_reference(request.param, folder)
    return reference, load_torch_model(folder)


def test_logits_when_prefilled_in_chunks_and_decoded_past_the_window_then_match_transformers(
    pair: tuple[GptOssForCausalLM, TorchModel],
) -> None:
    reference, model = pair
    run = StepByStep(model, prompt_of(137, seed=1))
    for chunk in (50, 1, 86):
        run.prefill(chunk)
    for _ in range(NUM_DECODED):
        run.decode()
    expected = reference_logits(reference, run.sequence.token_ids)
    torch.testing.assert_close(torch.cat(run.logits), expected, atol=1e-3, rtol=0.0)


def test_greedy_tokens_when_alone_and_in_a_batch_of_16_then_match_transformers(
    pair: tuple[GptOssForCausalLM, TorchModel],
) -> None:
    reference, model = pair
    lengths = [1, 2, 15, 16, 17, 31, 40, 64, 100, 127, 128, 129, 160, 200, 255, 300]
    prompts = [prompt_of(length, seed=length) for length in lengths]
    options = EngineOptions(max_num_seqs=16, prefill_chunk_tokens=96, kv_cache_bytes=64 * 2**20)
    together, _ = generate(model, prompts, NUM_DECODED, options)
    alone = [generate(model, [prompt], NUM_DECODED, options)[0][0] for prompt in prompts[::5]]
    assert together[::5] == alone
    for prompt, tokens in zip(prompts, together, strict=True):
        assert follows_greedily(reference, prompt, tokens)


def test_greedy_tokens_when_blocks_run_out_and_sequences_are_recomputed_then_stay_the_same(
    tmp_path: Path,
) -> None:
    make_reference("one_kv_head_small_window", tmp_path)
    model = load_torch_model(tmp_path)
    prompts = [prompt_of(60, seed=seed) for seed in range(8)]
    roomy = EngineOptions(max_num_seqs=8, kv_cache_bytes=64 * 2**20, max_model_len=256)
    # one layer of 1 x 32 x 4 bytes x 2 sides: blocks for about three whole sequences beside the sliding group's
    tight = dataclasses.replace(roomy, kv_cache_bytes=roomy_bytes(model, roomy) + 4096 * 40)
    tokens_tight, stats = generate(model, prompts, 128, tight)
    tokens_roomy, _ = generate(model, prompts, 128, roomy)
    assert tokens_tight == tokens_roomy
    assert stats.num_preemptions > 0


def roomy_bytes(model: Model, options: EngineOptions) -> int:
    """Return the sliding group's bytes under `options`."""
    plan = plan_cache(
        model.config,
        CacheLimits(
            options.block_size,
            options.max_num_seqs,
            options.prefill_chunk_tokens + options.max_num_seqs,
            max_model_len=options.max_model_len,
        ),
        budget_bytes=64 * 2**20,
        element_size=4,
    )
    return plan.num_sliding_blocks * 4096


def test_logits_when_the_checkpoint_is_bfloat16_then_stay_close_to_transformers(tmp_path: Path) -> None:
    reference = make_reference("base", tmp_path, dtype=torch.bfloat16)
    run = StepByStep(load_torch_model(tmp_path), prompt_of(200, seed=3))
    run.prefill(200)
    expected = reference_logits(reference, run.sequence.token_ids)
    torch.testing.assert_close(run.logits[0], expected, atol=1e-3, rtol=0.0)


def test_logits_when_computed_in_bfloat16_then_differ_by_rounding_only(tmp_path: Path) -> None:
    reference = make_reference("base", tmp_path)
    run = StepByStep(load_torch_model(tmp_path, torch.bfloat16), prompt_of(64, seed=4))
    run.prefill(64)
    expected = reference_logits(reference, run.sequence.token_ids)
    likeness = torch.nn.functional.cosine_similarity(run.logits[0], expected)
    assert likeness.median() > 0.98  # the router may send a few tokens to another expert
