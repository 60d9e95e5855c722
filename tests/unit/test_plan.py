"""`gptoss plan`: what is reckoned from the hardware's limits, against what was measured."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from gptoss_backend.demo.random_checkpoint import SHAPES, config_of
from gptoss_backend.engine.placement.choice import Card, choose_placement
from gptoss_backend.engine.placement.memory_plan import Formats
from gptoss_client.cli import app
from gptoss_client.errors import UsageError
from gptoss_client.plan_devices import DEVICES
from gptoss_client.plan_fleet import Demand, keeps_promises, place, plan_fleet, replica_load
from gptoss_client.plan_models import PlannedModel, published_config
from gptoss_client.plan_roofline import Roofline

MEASURED_WITHIN = 2.0
DEMAND = Demand(users=200, think_s=15.0, prompt_tokens=1000, answer_tokens=500, tokens_per_user_s=20.0, max_num_seqs=64)


def on_cpu(shape: str) -> Roofline:
    """Return a benchmark's checkpoint, experts in bfloat16, on the machine it was measured on."""
    cpu, config = DEVICES["cpu"], config_of(SHAPES[shape])
    placement = choose_placement(config, [Card(cpu.name, cpu.memory_bytes)], formats=Formats(packed=False))
    return Roofline(config, cpu, placement)


@pytest.mark.parametrize("size", ["20b", "120b"])
def test_published_config_when_compared_then_it_is_the_one_that_checkpoints_are_made_with(size: PlannedModel) -> None:
    assert published_config(size) == config_of(SHAPES[size])


@pytest.mark.parametrize(
    ("shape", "batch", "measured_ms"),
    # load/RESULTS.md, 2026-11-23, commit 1c82d2c, "engine": inter-token ms; prompts of 200 tokens, 64 new ones
    [
        ("tiny", 1, 0.28),
        ("tiny", 8, 0.72),
        ("tiny", 32, 2.43),
        ("small", 1, 4.53),
        ("small", 8, 12.15),
        ("small", 32, 23.32),
    ],
)
def test_decode_step_when_measured_on_two_cores_then_the_reckoned_time_is_within_twice(
    shape: str, batch: int, measured_ms: float
) -> None:
    reckoned_ms = on_cpu(shape).decode_step_s(batch, 232) * 1000

    assert measured_ms / MEASURED_WITHIN <= reckoned_ms <= measured_ms * MEASURED_WITHIN


def test_passes_when_a_full_size_20b_was_measured_on_two_cores_then_both_reckoned_times_are_within_twice() -> None:
    model = place("20b", DEVICES["cpu"])

    # load/RESULTS.md, 20B on a workstation: 117.2 ms a token, 826 ms to the first of 32 prompt tokens
    assert 0.1172 / MEASURED_WITHIN <= model.decode_step_s(1, 48) <= 0.1172 * MEASURED_WITHIN
    assert 0.826 / MEASURED_WITHIN <= model.prefill_s(32) <= 0.826 * MEASURED_WITHIN


def test_prefill_when_measured_on_two_cores_then_the_reckoned_time_is_within_twice() -> None:
    # the engine's time to first token at one stream, 200 tokens
    assert 0.0280 / MEASURED_WITHIN <= on_cpu("small").prefill_s(200) <= 0.0280 * MEASURED_WITHIN


@pytest.mark.parametrize(
    ("size", "batch", "context", "measured_ms"),
    # load/RESULTS.md, steps alone on an H100
    [
        ("20b", 1, 1024, 2.43),
        ("20b", 8, 1024, 7.15),
        ("20b", 32, 1024, 10.12),
        ("20b", 128, 1024, 14.86),
        ("20b", 256, 1024, 20.7),
        ("20b", 1, 8192, 2.54),
        ("20b", 32, 8192, 12.05),
        ("120b", 1, 1024, 3.41),
        ("120b", 8, 1024, 11.0),
        ("120b", 32, 1024, 32.73),
        ("120b", 128, 1024, 51.93),
    ],
)
def test_decode_step_when_measured_on_an_h100_then_the_reckoned_time_is_within_a_third(
    size: PlannedModel, batch: int, context: int, measured_ms: float
) -> None:
    assert place(size, DEVICES["h100"]).decode_step_s(batch, context) * 1000 == pytest.approx(measured_ms, rel=1 / 3)


@pytest.mark.parametrize(("size", "measured_ms"), [("20b", 68.5), ("120b", 130.0)])
def test_prefill_when_2048_tokens_were_measured_on_an_h100_then_the_reckoned_time_is_within_a_fifth(
    size: PlannedModel, measured_ms: float
) -> None:
    assert place(size, DEVICES["h100"]).prefill_s(2048) * 1000 == pytest.approx(measured_ms, rel=0.2)


@pytest.mark.parametrize(("size", "gigabytes"), [("20b", 3.7), ("120b", 5.0)])
def test_decode_step_when_alone_then_it_reads_the_bytes_that_the_literature_counts(
    size: PlannedModel, gigabytes: float
) -> None:
    model = place(size, replace(DEVICES["h100"], efficiency=replace(DEVICES["h100"].efficiency, memory=1.0)))

    assert model.decode_step_s(1, 0) * model.device.bandwidth / 1e9 == pytest.approx(gigabytes, rel=0.05)


def test_decode_step_when_the_batch_grows_then_experts_are_read_once_for_all_who_picked_them() -> None:
    model = place("120b", DEVICES["h100"])
    times = [model.decode_step_s(batch, 500) for batch in (1, 8, 64, 512)]

    assert times == sorted(times)
    assert times[1] < 8 * times[0] / 2
    assert times[3] < 2.5 * times[2]  # nearly all experts are read already at 64


@pytest.mark.parametrize(("size", "gpu", "cards"), [("20b", "h100", 1), ("120b", "h100", 1), ("120b", "rtx4090", 4)])
def test_place_when_a_model_needs_several_cards_then_a_replica_has_them(
    size: PlannedModel, gpu: str, cards: int
) -> None:
    assert len(place(size, DEVICES[gpu]).placement.shards) == cards


def test_decode_step_when_cards_share_it_then_what_they_exchange_comes_on_top() -> None:
    alone, spread = place("120b", DEVICES["h100"]), place("120b", DEVICES["rtx4090"])

    assert alone.exchange_s == 0.0
    assert spread.exchange_s == pytest.approx(74 * 30e-6)  # the embedding, two sums in each of 36 layers, logits
    assert spread.decode_step_s(1, 1000) > spread.exchange_s + 5.0e9 / (4 * spread.device.bandwidth)
    asked = ["plan", "--model", "120b", "--users", "20", "--gpu"]
    assert "and 2.2 ms a step for what the cards exchange" in CliRunner().invoke(app, [*asked, "rtx4090"]).stdout
    assert "exchange" not in CliRunner().invoke(app, [*asked, "h100"]).stdout


def test_decode_step_when_a_card_has_no_graphs_then_what_the_host_launches_bounds_it() -> None:
    spread = place("20b", DEVICES["t4"])

    # 24 layers took 20.2 ms with next to nothing to compute
    assert spread.launching_s == pytest.approx(0.0202)
    assert spread.decode_step_s(1, 1000) >= spread.launching_s > place("20b", DEVICES["h100"]).launching_s == 0.0
    asked = ["plan", "--model", "20b", "--users", "2", "--gpu", "t4"]
    assert "and 20 ms a step at least" in CliRunner().invoke(app, asked).stdout


def test_fleet_when_planned_then_it_keeps_its_promises_and_one_replica_fewer_would_not() -> None:
    found = plan_fleet("120b", DEVICES["h100"], DEMAND)
    fewer = replica_load(found.roofline, DEMAND, DEMAND.users / (found.num_replicas - 1))

    assert found.num_replicas > 1
    assert keeps_promises(found.roofline, DEMAND, found.load)
    assert not keeps_promises(found.roofline, DEMAND, fewer)


def test_replica_when_loaded_then_users_are_those_who_think_and_those_who_are_answered() -> None:
    load = replica_load(place("20b", DEVICES["h100"]), DEMAND, 50)
    cycle_s = DEMAND.think_s + load.ttft_s + DEMAND.answer_tokens * load.token_s

    assert load.requests_per_s * cycle_s == pytest.approx(50, rel=1e-6)


def test_replica_when_hardly_used_then_an_answer_is_no_faster_than_alone() -> None:
    model = place("20b", DEVICES["h100"])

    assert replica_load(model, DEMAND, 0.01).token_s >= model.decode_step_s(1, DEMAND.mean_context)


@pytest.mark.parametrize(
    "change",
    [{"users": 400}, {"prompt_tokens": 4000}, {"tokens_per_user_s": 40.0}, {"think_s": 1.0}, {"max_num_seqs": 16}],
)
def test_fleet_when_more_is_asked_for_then_it_has_more_cards(change: dict[str, float]) -> None:
    least = plan_fleet("120b", DEVICES["h100"], DEMAND).num_cards

    assert plan_fleet("120b", DEVICES["h100"], replace(DEMAND, **change)).num_cards > least


def test_fleet_when_even_one_user_is_too_many_then_the_sentence_says_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"a single user 8\.\d tokens/s, below --tokens-per-user-s 20"):
        plan_fleet("20b", DEVICES["cpu"], DEMAND)
    with pytest.raises(UsageError, match="8 such\\): use more or larger cards"):
        plan_fleet("120b", replace(DEVICES["t4"], memory_bytes=2**30), DEMAND)
    with pytest.raises(UsageError, match="shorten --prompt"):
        plan_fleet("20b", DEVICES["cpu"], replace(DEMAND, tokens_per_user_s=1.0, prompt_tokens=20_000))


def test_cost_when_a_price_is_given_then_it_is_that_of_all_cards_by_the_tokens_of_an_hour() -> None:
    found = plan_fleet("20b", DEVICES["h100"], DEMAND)

    assert found.cost_per_million(2.0) == pytest.approx(2.0 * found.num_cards / (found.tokens_per_s * 3600 / 1e6))


def test_command_when_run_then_it_tells_cards_and_what_is_assumed() -> None:
    asked = ["plan", "--model", "120b", "--gpu", "h100", "--users", "200"]
    told = CliRunner().invoke(app, [*asked, "--price", "2.5"])
    document = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)

    assert told.exit_code == 0
    assert f"cards             {document['cards']}: " in told.stdout
    assert "for a million answered tokens" in told.stdout
    assert "measured: load/RESULTS.md" in told.stdout
    assert document["efficiency_is_measured"] is True
    assert "cost_per_million_tokens" not in document


def test_command_when_a_card_was_never_measured_then_it_says_what_is_assumed() -> None:
    asked = ["plan", "--model", "20b", "--gpu", "l40s", "--users", "20"]

    assert "an assumption: what steps alone reached on an H100" in CliRunner().invoke(app, asked).stdout
    assert json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)["efficiency_is_measured"] is False


def test_command_when_the_card_is_unknown_then_it_names_those_there_are() -> None:
    result = CliRunner().invoke(app, ["plan", "--model", "20b", "--gpu", "voodoo", "--users", "1"])

    assert isinstance(result.exception, UsageError)
    assert "h100" in str(result.exception)
