"""`gptoss plan`: cards, speed and cost on paper.

Stage: before anything is bought.
Owns: the command's options, what is told of a plan.
Does not know: how it is reckoned (plan_fleet, plan_roofline).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import typer

from gptoss_backend.settings import Settings
from gptoss_client.console import plain_console
from gptoss_client.errors import UsageError
from gptoss_client.plan_devices import DEVICES, TENSOR_SHARE
from gptoss_client.plan_fleet import MOST_MEAN_TTFT_S, MOST_TTFT_S, Demand, Plan, plan_fleet
from gptoss_client.plan_models import PlannedModel

_PROMISED: Final = (
    f"{MOST_MEAN_TTFT_S:.1f} s at most, that the 95th percentile may hold its target of {MOST_TTFT_S:g} s"
)


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    text: str
    key: str
    value: Any


def plan(
    *,
    model: Annotated[PlannedModel, typer.Option(help="What to serve.")],
    gpu: Annotated[str, typer.Option(metavar="|".join(DEVICES), help="On what.")],
    users: Annotated[int, typer.Option(min=1, help="People who chat.")],
    think_s: Annotated[float, typer.Option(min=0.0, help="Seconds between an answer and the next question.")] = 15.0,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a question that no cache has.")] = 1000,
    answer: Annotated[int, typer.Option(min=1, help="Tokens of an answer, reasoning included.")] = 500,
    tokens_per_user_s: Annotated[
        float, typer.Option(min=0.001, help="As fast as an answer has to come to its reader, at least.")
    ] = 20.0,
    max_num_seqs: Annotated[
        int, typer.Option(min=4, help="Answers an engine computes together: engine.max_num_seqs of its settings.")
    ] = Settings().engine.max_num_seqs,
    price: Annotated[float | None, typer.Option(min=0.0, help="Of a card for an hour, in any currency.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Reckon from the hardware's limits how many cards so many people need, how fast they are, what a token costs."""
    if gpu not in DEVICES:
        raise UsageError(f"--gpu {gpu} is not one of {', '.join(DEVICES)}")
    found = plan_fleet(model, DEVICES[gpu], Demand(users, think_s, prompt, answer, tokens_per_user_s, max_num_seqs))
    plain_console().print(as_document(found, price) if as_json else "\n".join(as_lines(found, price)))


def as_lines(found: Plan, price: float | None) -> list[str]:
    """Return the plan for people, with what it stands on."""
    rows = _rows(found, price)
    width = max(len(row.name) for row in rows)
    device = found.roofline.device
    reached = device.efficiency
    lines = [f"{row.name:<{width}}  {row.text}" for row in rows]
    lines += [
        "",
        f"{device.name}: {_gb(device.memory_bytes)}, {device.bandwidth / 1e9:,.0f} GB/s, "
        f"{device.flops / 1e12:,.3g} TFLOP/s; reckoned with {reached.memory:.0%} and {reached.compute:.0%} of these,",
        reached.source,
    ]
    if found.roofline.placement.mode == "tensor":
        lines.append(f"and {TENSOR_SHARE:.0%} of it over several cards, an assumption")
    if exchange_s := found.roofline.exchange_s:
        lines.append(f"and {exchange_s * 1000:.2g} ms a step for what the cards exchange, an assumption")
    if floor_s := found.roofline.launching_s:
        lines.append(
            f"and {floor_s * 1000:.0f} ms a step at least: on this card the host launches kernel by kernel, an "
            "assumption from another host"
        )
    return lines


def as_document(found: Plan, price: float | None) -> str:
    """Return the plan for programs."""
    document = {row.key: row.value for row in _rows(found, price)}
    return json.dumps(document | {"efficiency_is_measured": found.roofline.device.efficiency.is_measured}, indent=2)


def _rows(found: Plan, price: float | None) -> list[_Row]:
    load, demand, roofline = found.load, found.demand, found.roofline
    single = 1 / roofline.decode_step_s(1, demand.mean_context)
    mode: Literal["single", "pipeline", "tensor"] = roofline.placement.mode
    each = "a card each" if found.cards_of_one == 1 else f"{found.cards_of_one} cards each by {mode} parallelism"
    rows = [
        _Row(
            "cards", f"{found.num_cards}: {_counted(found.num_replicas, 'replica')}, {each}", "cards", found.num_cards
        ),
        _Row(
            "answers at once",
            f"{load.batch:.1f} a replica, seldom more than {load.peak_batch:.0f}",
            "batch_per_replica",
            load.batch,
        ),
        _Row("tokens/s", f"{found.tokens_per_s:,.0f} in all", "tokens_per_s", found.tokens_per_s),
        _Row(
            "tokens/s a user",
            f"{1 / load.token_s:,.0f} (asked for: {demand.tokens_per_user_s:g}; alone on a replica: {single:,.0f})",
            "tokens_per_user_s",
            1 / load.token_s,
        ),
        _Row("first token", f"{load.ttft_s:.2f} s on average ({_PROMISED})", "ttft_s", load.ttft_s),
        _Row("time for prompts", f"{load.prefill_share:.0%} of a replica's", "prefill_share", load.prefill_share),
        _Row("weights", f"{_gb(_weights(found))} a card", "weights_bytes_per_card", _weights(found)),
    ]
    if price is not None:
        cost = found.cost_per_million(price)
        rows.append(_Row("cost", f"{cost:,.2f} for a million answered tokens", "cost_per_million_tokens", cost))
    return rows


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.1f} GB"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _weights(found: Plan) -> int:
    return max(memory.weight_bytes for memory in found.roofline.placement.plans)
