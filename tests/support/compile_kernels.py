"""Compile the kernels as a launch would, for cards that are not there, and print what they take as JSON.

Run as `python -m support.compile_kernels CAPABILITY:DTYPE:NUM_TOKENS[:WAY] …`, without TRITON_INTERPRET. WAY is fp8:
attention alone is compiled, over an FP8 KV cache; eighth: attention alone, of a device that has one key head; or
dependent: kernels begin while the ones before them end.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.config import RopeConfig
from gptoss_backend.engine.experts import ExpertShape, ExpertWeights
from gptoss_backend.engine.int8 import EightBitMatrix, Matrix
from gptoss_backend.engine.kernels import experts as expert_kernels
from gptoss_backend.engine.kernels.dependent_launch import launch_dependently
from gptoss_backend.engine.kernels.experts import norm_and_mix
from gptoss_backend.engine.kernels.norm import Norm, add_and_norm
from gptoss_backend.engine.kernels.operators import KernelOperators
from gptoss_backend.engine.kernels.sampling import Held, choose_tokens
from gptoss_backend.engine.kernels.skinny import multiply_few
from gptoss_backend.engine.kernels.step_inputs import DecodeRows, DeviceTables
from gptoss_backend.engine.kernels.step_setup import set_up
from gptoss_backend.engine.mxfp4 import PackedMatrices
from gptoss_backend.engine.operators import LayerCache
from gptoss_backend.engine.precision import FLOAT8
from gptoss_backend.engine.rope import RotaryEmbedding
from support.attention_cases import AttentionCase, Heads

HIDDEN = INNER = 2880
META = torch.device("meta")
ROPE = RopeConfig(150000.0, 32.0, 32.0, 1.0, 4096, truncate=False)


@dataclass(frozen=True, slots=True)
class Compiled:
    """One kernel for one card."""

    name: str
    case: str
    capability: int
    registers: int
    """For each thread"""
    stack_bytes: int
    """For each thread; what does not fit into registers is there"""
    tensor_core_instructions: int
    loop_instructions: int
    """Of the longest loop, one time round, as a warp issues them"""
    loop_exchanges: int
    """Of these, what moves values between lanes through shared memory: matrix loads and stores of 16 bytes"""
    hasty_loads: int
    """Of these, loads from global memory into registers that are read before half of the round has passed"""
    pending_multiplications: int
    """Of Hopper's, how many may still read registers where the program goes on"""
    shared_bytes: int
    """For each program"""
    early: list[str] | None
    """Accesses to global memory before it waits for the kernels before it; None: it does not wait"""


class AbsentCards:
    """Stands in for Triton's driver: a device's number is its compute capability, 90 for 9.0."""

    capability = 0

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


def main(wanted: list[str]) -> None:
    """Compile all, and print a list of `Compiled`."""
    cards, found = AbsentCards(), []
    driver.set_active(cards)
    launch = JITFunction.run
    case = ""

    expert_kernels._has_tile_multiplication = lambda device: cards.capability >= 80

    def compile_only(kernel: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **options: Any) -> None:  # noqa: ANN401
        compiled = launch(kernel, *args, grid=grid, warmup=True, **options)
        found.append(measure(kernel.__name__, case, cards.capability, compiled))

    JITFunction.run = compile_only
    for case in wanted:
        capability, dtype_name, num_tokens, *way = case.split(":")
        cards.capability, dtype = int(capability), getattr(torch, dtype_name)
        with launch_dependently(way == ["dependent"]):
            run(dtype, int(num_tokens), way, cards.capability)
    json.dump([dataclasses.asdict(one) for one in found], sys.stdout)


def run(dtype: torch.dtype, num_tokens: int, way: list[str], capability: int) -> None:
    """Call what launches the kernels of a step."""
    if way == ["fp8"]:
        run_attention(dtype, num_tokens, FLOAT8)
        return
    if way == ["eighth"]:
        run_one_of_eight(dtype)
        return
    run_experts(dtype, num_tokens)
    if capability >= 80:  # before, plain torch does the rest
        run_attention(dtype, num_tokens)
        run_others(dtype, num_tokens)
        if num_tokens == 1 or capability == 80:  # once for each card
            run_skinny(dtype)


def run_experts(dtype: torch.dtype, num_tokens: int) -> None:
    """Call what launches the experts' kernels and the norms around them, at the 20B's size, without memory."""

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def packed(num_outputs: int, num_inputs: int) -> PackedMatrices:
        blocks = torch.empty(32, num_outputs, num_inputs // 32, 16, dtype=torch.uint8, device="meta")
        return PackedMatrices(blocks, blocks[..., 0].contiguous(), dtype, is_repacked=True)

    gate_up, down = packed(2 * INNER, HIDDEN), packed(HIDDEN, INNER)
    weights = ExpertWeights(empty(32, HIDDEN), empty(32), gate_up, empty(32, 2 * INNER), down, empty(32, HIDDEN))
    hidden, norm = empty(num_tokens, HIDDEN), Norm(torch.empty(HIDDEN, device=META), 1e-5, dtype)
    hidden, mixed = norm_and_mix(hidden, hidden, norm, weights, ExpertShape(4, 1.702, 7.0))
    KernelOperators.sum(mixed)
    add_and_norm(hidden, mixed, norm)


def run_attention(dtype: torch.dtype, num_tokens: int, cache_dtype: torch.dtype | None = None) -> None:
    """Call what launches attention, for as many decoding rows, or for a chunk where there are many tokens."""
    decodes, chunks = ([1000] * num_tokens, []) if num_tokens <= 256 else ([], [(0, num_tokens)])
    case = AttentionCase.random(
        decodes, chunks, Heads(64, 8, 64), window=128, dtype=dtype, device=META, cache_dtype=cache_dtype
    )
    rope = RotaryEmbedding(ROPE, 64, META)
    attention = KernelOperators(META).attention(case.batch, case.tables, rope, dtype)
    for is_sliding in (False, True):
        attention.attend(case.heads, case.identity(), LayerCache(case.keys, case.values, is_sliding), case.sinks)


def run_one_of_eight(dtype: torch.dtype) -> None:
    """Call what writes to the cache of a device that has an eighth of the heads: an argument of 1 is a constant."""
    for num_tokens in (1, 2, 32):
        case = AttentionCase.random([9] * num_tokens, [], Heads(8, 1, 64), window=128, dtype=dtype, device=META)
        attention = KernelOperators(META).attention(case.batch, case.tables, RotaryEmbedding(ROPE, 64, META), dtype)
        attention.attend(case.heads, case.identity(), LayerCache(case.keys, case.values, is_sliding=True), case.sinks)


def run_others(dtype: torch.dtype, num_tokens: int) -> None:
    """Call what launches the last norm and, for as many decoding rows, their set-up and sampling."""
    hidden = torch.empty(num_tokens, HIDDEN, dtype=dtype, device=META)
    if num_tokens <= 256:
        draws = torch.empty(5, num_tokens, dtype=torch.float64, device=META)
        for logits_dtype in {dtype, torch.float32}:  # as they are, and changed
            logits = torch.empty(num_tokens, 201088, dtype=logits_dtype, device=META)
            tokens, samples = torch.empty(num_tokens, dtype=torch.int64, device=META), draws[0]
            choose_tokens(logits, draws, tokens)
            if logits_dtype == dtype:
                bits = torch.empty(num_tokens, 6284, dtype=torch.int32, device=META)
                choose_tokens(logits, draws, tokens, Held(samples, bits))
        plan = CachePlan(16, num_tokens, 4096, num_tokens * 256, num_tokens * 256, 0)
        rows, chosen = DecodeRows(num_tokens, META), torch.empty(num_tokens, dtype=torch.int64, device=META)
        set_up(rows, DeviceTables(plan, 128, META), RotaryEmbedding(ROPE, 64, META), chosen)
    add_and_norm(hidden, None, Norm(torch.empty(HIDDEN, device=META), 1e-5, dtype))


def run_skinny(dtype: torch.dtype) -> None:
    """Call what launches the matmuls of few rows: attention's output and the unembedding, in eight bits too."""
    for num_rows in (1, 4, 16):
        for num_outputs, num_inputs, has_bias in ((HIDDEN, 4096, True), (201088, HIDDEN, False)):
            weight = torch.empty(num_outputs, num_inputs, dtype=dtype, device=META)
            bias = torch.empty(num_outputs, dtype=dtype, device=META) if has_bias else None
            values, scales = (torch.empty(shape, device=META) for shape in (weight.shape, len(weight)))
            matrices: tuple[Matrix, ...] = (weight, EightBitMatrix(values.to(torch.int8), scales, dtype))
            for matrix in matrices:
                multiply_few(torch.empty(num_rows, num_inputs, dtype=dtype, device=META), matrix, bias)


def measure(name: str, case: str, capability: int, compiled: Any) -> Compiled:  # noqa: ANN401 (Triton's, without types)
    """Read a compiled kernel's resources with the tools that Triton brings."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _output(triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name)
        assembly = ""
        if re.search("mma|griddepcontrol", compiled.asm["ptx"]):  # of the others none is looked at; it takes 0.3 s
            assembly = _output(triton.knobs.nvidia.nvdisasm.path, "-c", "-ndf", file.name)
    loop = _longest_loop(assembly)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()  # type: ignore[union-attr]
    multiplications = len(re.findall(r"\b(?:HMMA|HGMMA)\.", assembly))
    return Compiled(
        name,
        case,
        capability,
        int(registers),
        int(stack),
        multiplications,
        len(loop),
        sum(bool(re.search(r"\b(LDSM|STSM|STS\.128)\b", instruction)) for instruction in loop),
        _hasty_loads(loop),
        max(map(int, re.findall(r"wgmma\.wait_group\.sync\.aligned\s+(\d+)", compiled.asm["ptx"])), default=0),
        compiled.metadata.shared,
        _early_accesses(assembly),
    )


def _longest_loop(assembly: str) -> list[str]:
    """Return the instructions of the longest loop, none where there is none."""
    instructions, longest, places = list[str](), list[str](), dict[str, int]()
    for line in assembly.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line.strip()):
            places[label[1]] = len(instructions)
        elif instruction := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?);", line):
            instructions.append(instruction[1])
            back = re.search(r"\bBRA\b.*?(\.L_x_\d+)", instruction[1])
            if back and back[1] in places:
                longest = max(longest, instructions[places[back[1]] :], key=len)
    return longest


def _hasty_loads(loop: list[str]) -> int:
    count = 0
    for place, instruction in enumerate(loop):
        if load := re.search(r"\bLDG\.\S+ (R\d+),", instruction):
            count += any(re.search(rf"\b{load[1]}\b", later) for later in loop[place + 1 :][: len(loop) // 2])
    return count


def _early_accesses(assembly: str) -> list[str] | None:
    instructions = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+\s+)?(\S+)", assembly, re.MULTILINE)
    if "ACQBULK" not in instructions:
        return None
    before = instructions[: instructions.index("ACQBULK")]
    return [name for name in before if re.match(r"LD\.|LDG|ST\.|STG|ATOM|RED\.|UBLKCP|UTMA|CCTL", name)]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main(sys.argv[1:])
