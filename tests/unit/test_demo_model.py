"""The demo model's module, its shipped form, and the checkpoint unpacked from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gptoss_backend.demo import naming, train
from gptoss_backend.demo.rows import Spellings, said, scaled, stem_and_traits
from gptoss_backend.demo.shape import TRAINED_SHAPE, trained_config
from gptoss_backend.demo.train import Run, loss_of
from gptoss_backend.demo.trained_checkpoint import write_trained_checkpoint
from gptoss_backend.demo.training import batches
from gptoss_backend.demo.training.batches import Batch, Batcher
from gptoss_backend.demo.training.export import export, known_of, restore
from gptoss_backend.demo.training.induction import guess_induction
from gptoss_backend.demo.training.model import TrainedModel, rounded
from gptoss_backend.demo.training.optimizer import optimizer_for
from gptoss_backend.demo.training.schedule import Schedule
from gptoss_backend.harmony.vocabulary import VOCAB_SIZE, encoding
from support.stepping import StepByStep, load_torch_model

NUM_KNOWN = 1000


@pytest.fixture(scope="module")
def spellings() -> Spellings:
    return Spellings(TRAINED_SHAPE.hidden_size)


@pytest.fixture
def model(spellings: Spellings) -> TrainedModel:
    torch.manual_seed(0)
    model = TrainedModel(trained_config(), torch.arange(NUM_KNOWN), spellings)
    with torch.no_grad():
        for parameter in model.parameters():  # as the file holds them, and nothing zero that could be forgotten
            parameter.add_(torch.randn_like(parameter) * 0.05).copy_(parameter.bfloat16())
    return model


def token(text: str) -> int:
    (only,) = encoding().encode(text)
    return only


def test_logits_when_the_model_is_exported_and_unpacked_then_the_engine_computes_the_same(
    model: TrainedModel, tmp_path: Path
) -> None:
    export(model, tmp_path / "weights.safetensors")
    write_trained_checkpoint(tmp_path / "demo", weights=tmp_path / "weights.safetensors")
    others = torch.tensor([token(" Zebra"), token("Paris"), 199_000, 150_000])
    numbers = torch.randint(NUM_KNOWN + len(others), (300,))
    ids = torch.cat((model.known, others))[numbers]

    engine = StepByStep(load_torch_model(tmp_path / "demo"), ids.tolist())
    engine.prefill(len(ids))

    model.quantized = True
    with torch.no_grad():
        table = model.table(others).bfloat16().float()
        outputs = model.output_table(others).bfloat16().float()
        expected = model(numbers[:100], numbers[None, 100:], table, torch.ones(1, 200, dtype=torch.bool))[0] @ outputs.T
    computed = torch.cat(engine.logits)[:, torch.cat((model.known, others))]
    torch.testing.assert_close(computed[-len(expected) :], expected, atol=2e-3, rtol=0.0)


def test_model_when_exported_and_restored_then_it_has_the_files_numbers(
    model: TrainedModel, spellings: Spellings, tmp_path: Path
) -> None:
    export(model, tmp_path / "weights.safetensors")
    again = TrainedModel(trained_config(), known_of(tmp_path / "weights.safetensors"), spellings)

    restore(again, tmp_path / "weights.safetensors")

    for (name, parameter), other in zip(model.named_parameters(), again.parameters(), strict=True):
        is_packed = name.endswith(("gate_up", "down"))
        assert torch.equal(other, rounded(parameter) if is_packed else parameter), name


def test_checkpoint_when_unpacked_then_it_says_of_which_weights_and_older_ones_are_outdated(
    model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(model, tmp_path / "shipped.safetensors")
    write_trained_checkpoint(tmp_path / "demo", weights=tmp_path / "shipped.safetensors")
    monkeypatch.setattr(naming, "WEIGHTS_FILE", tmp_path / "shipped.safetensors")
    was_outdated = naming.is_outdated_demo(tmp_path / "demo")
    with torch.no_grad():
        model.norm.add_(1.0)
    export(model, tmp_path / "shipped.safetensors")

    assert not was_outdated
    assert naming.is_demo(tmp_path / "demo")
    assert naming.is_outdated_demo(tmp_path / "demo")


def test_rows_when_spellings_share_a_stem_then_they_differ_by_their_traits_only(spellings: Spellings) -> None:
    traits = torch.randn(len(spellings.traits[0]), TRAINED_SHAPE.hidden_size)

    spaced, plain = spellings.rows(torch.tensor([token(" Paris"), token("Paris")]), traits)

    assert stem_and_traits(token(" Paris"))[0] == stem_and_traits(token("Paris"))[0] == b"paris"
    torch.testing.assert_close(spaced - plain, traits[1])


def test_output_rows_when_compared_with_the_embedding_then_no_token_points_at_itself(spellings: Spellings) -> None:
    ids, traits = torch.randint(VOCAB_SIZE, (500,)), torch.zeros(len(spellings.traits[0]), TRAINED_SHAPE.hidden_size)
    embedded, pointed = spellings.rows(ids, traits), spellings.output_rows(ids, traits)

    assert torch.equal(said(embedded), pointed)
    assert (scaled(embedded) * scaled(pointed)).sum(dim=-1).abs().max() < 0.5


def test_rows_when_stems_differ_then_no_two_are_alike(spellings: Spellings) -> None:
    some = spellings.vectors[torch.randint(len(spellings.vectors), (2000,))]
    likeness = scaled(some) @ scaled(some).T

    assert len(spellings.stems) == VOCAB_SIZE
    assert (likeness > 0.6).sum() < 1.02 * len(some)  # itself, and where one was drawn twice


def test_guess_when_a_text_comes_a_second_time_then_it_is_copied(spellings: Spellings) -> None:
    torch.manual_seed(0)
    model = TrainedModel(trained_config(), torch.arange(NUM_KNOWN), spellings)
    guess_induction(model)
    others = torch.randperm(100_000)[:400] + 50_000
    once = torch.randperm(400)[:60] + NUM_KNOWN
    text = torch.cat((once, once))[None]

    with torch.no_grad():
        hidden, _ = model(text[0, :0], text[:, :-1], model.table(others), text[:, 1:] >= 0)
        logits = hidden @ model.output_table(others).T
    hits = (logits[60:].argmax(dim=-1) == text[0, 61:]).float().mean()

    assert hits > 0.2  # one in 1,400 by chance


def test_learning_when_the_same_batch_comes_again_then_its_loss_falls(
    model: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_GROUP", 20)
    batch = small(Batcher(model.known, model.spellings, seed=1).block(0)[0])
    optimizer = optimizer_for(model)
    losses = []
    for _ in range(4):
        loss, _ = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())

    assert losses[-1] < 0.9 * losses[0]


def small(batch: Batch) -> Batch:
    """Return the first dialogues of a batch."""
    return Batch(batch.shared, batch.tokens[:4], batch.is_target[:4], batch.others, batch.num_listed)


def test_run_when_it_ends_then_its_weights_are_the_mean_of_those_at_the_last_two_descents_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "known_tokens", lambda seed: torch.arange(NUM_KNOWN))
    run = Run(3, 0, 1e-3)
    begun = run.model.norm.detach().clone()
    for more in (9.0, 3.0, 5.0):
        with torch.no_grad():
            run.model.norm.copy_(begun + more)
        run.end_descent()
    run.save(tmp_path / "state.pt")
    resumed = Run(3, 0, 1e-3)
    resumed.resume(tmp_path / "state.pt")

    resumed.average()

    torch.testing.assert_close(resumed.model.norm.detach(), begun + 4)


def test_schedule_when_a_run_has_three_descents_then_the_rate_falls_to_nothing_at_the_end_of_each() -> None:
    schedule = Schedule(100)
    rates = [schedule.rate(block) for block in range(100)]

    assert [block for block in range(100) if schedule.ends_descent(block)] == [63, 81, 99]
    assert max(rates) == rates[10] == 1.0
    assert [rates[70], rates[88]] == [0.65, 0.65]
    assert max(rates[block] for block in (0, 63, 81, 99)) <= 0.25
    assert [schedule.rounds_experts(block) for block in (0, 25, 26, 70)] == [False, False, True, True]


def test_schedule_when_a_run_is_short_then_it_ends_with_its_last_block() -> None:
    assert [block for block in range(2) if Schedule(2).ends_descent(block)][-1] == 1
    assert Schedule(1).ends_descent(0)
