"""The GPU kernels compiled for cards that are not there: they compile, and what is to be fast spills nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gptoss_backend.engine.kernels.gemv import TENSOR_CORES
from gptoss_backend.engine.kernels.grouped_gemm import GemmTile

ROOT = Path(__file__).parents[2]
FEW, MANY = 1, 2048
CASES = [f"90:bfloat16:{FEW}", f"90:bfloat16:{MANY}", f"80:bfloat16:{MANY}", f"75:float16:{FEW}"]
# a chunk whose keys are divided, and the parts of eight heads joined by one program
DIVIDED = 300
FLOAT8_CASES = [f"90:bfloat16:{FEW}:fp8", f"89:bfloat16:{DIVIDED}:fp8"]
DEPENDENT_CASES = [f"90:bfloat16:{count}:dependent" for count in (FEW, 8)]
BLACKWELL_CASE, EIGHTH_CASE = "100:bfloat16:64", "90:bfloat16:1:eighth"
ALL_CASES = [*CASES, *FLOAT8_CASES, *DEPENDENT_CASES, BLACKWELL_CASE, EIGHTH_CASE]
ROUTING = {"_pick_experts", "_sum_experts", "_add_and_norm"}
ATTENTION = {"_attend_tiles", "_rotate_and_store"}
STEP = {"_set_up", "_project_vector", "_norm_and_score"}
GEMV = {"_gate_up_for_pairs", "_down_for_pairs"}
SAMPLING = {"_sum_columns", "_filter_columns", "_choose"}
GEMM = {"_gate_up_for_sorted", "_down_for_sorted"}
SKINNY = {"_skinny_vectors", "_skinny_tile"}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    # the kernels beside these tests, wherever the package is installed from
    path = os.pathsep.join(str(ROOT / folder) for folder in ("tests", "backend"))
    environment = dict(os.environ, PYTHONPATH=path, TRITON_CACHE_DIR=str(tmp_path_factory.mktemp("cache")))
    # in a process of its own, because the interpreter is chosen for a whole process
    environment.pop("TRITON_INTERPRET", None)
    # two at a time
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "support.compile_kernels", *cases],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for cases in (ALL_CASES[::2], ALL_CASES[1::2])
    ]
    outputs = [run.communicate() for run in runs]
    kernels: list[dict[str, Any]] = []
    for run, (stdout, stderr) in zip(runs, outputs, strict=True):
        assert run.returncode == 0, stderr
        kernels += json.loads(stdout)
    return kernels


@pytest.mark.parametrize(
    ("capability", "names"),
    [
        (90, GEMV | GEMM | ATTENTION | SAMPLING | SKINNY | STEP),
        (80, GEMM | ATTENTION | SKINNY),
        (75, GEMV | {"_norm_and_score"}),
    ],
)
def test_kernels_when_compiled_for_a_card_then_all_are_there_and_none_spills(
    compiled: list[dict[str, Any]], capability: int, names: set[str]
) -> None:
    kernels = [kernel for kernel in compiled if kernel["capability"] == capability and kernel["case"] in CASES]
    assert {kernel["name"] for kernel in kernels} - {"_sort_pairs", "_join_splits"} == ROUTING | names
    assert spills(kernels) == set()


def test_experts_when_compiled_for_blackwell_then_tiles_are_multiplied_and_nothing_spills(
    compiled: list[dict[str, Any]],
) -> None:
    kernels = [kernel for kernel in compiled if kernel["case"] == BLACKWELL_CASE]
    assert {kernel["name"] for kernel in kernels} >= GEMM
    assert spills(kernels) == set()


def test_kernels_when_a_device_has_one_key_head_then_they_compile(compiled: list[dict[str, Any]]) -> None:
    names = {kernel["name"] for kernel in compiled if kernel["case"] == EIGHTH_CASE}
    assert names == {"_project_vector", "_project_tile", "_rotate_and_store", "_attend_tiles"}


def spills(kernels: list[dict[str, Any]]) -> set[str]:
    """Return the names of kernels that keep anything on a stack but, for large angles, what sines are made of."""
    return {kernel["name"] for kernel in kernels if kernel["stack_bytes"]} - {"_set_up"}


def test_gemv_when_compiled_for_hopper_then_half_of_the_registers_suffice(compiled: list[dict[str, Any]]) -> None:
    # up to 128 leave room for 16 warps on a multiprocessor, whose loads together hide the memory's latency
    kernels = [kernel for kernel in compiled if kernel["name"] in GEMV and kernel["capability"] == 90]
    assert len(kernels) == 2 * len(GEMV)
    assert [kernel["name"] for kernel in kernels if kernel["registers"] > 128] == []


def test_experts_when_compiled_for_hopper_then_a_weight_takes_four_instructions_at_most(
    compiled: list[dict[str, Any]],
) -> None:
    # at eight these, and not the memory, bound a step on an H100; at five and a half it would just be the memory
    few, many = TENSOR_CORES.down, GemmTile.for_rows(4 * MANY, 32)
    of_a_warp = {
        **dict.fromkeys(GEMV, few.rows * few.blocks),
        **dict.fromkeys(GEMM, many.outputs * many.blocks / many.num_warps),
    }
    kernels = [kernel for kernel in compiled if kernel["name"] in GEMV | GEMM and kernel["case"] in CASES[:2]]
    assert len(kernels) == 4
    for kernel in kernels:
        # of 32 lanes each has one weight of a block
        assert kernel["loop_instructions"] < 4 * of_a_warp[kernel["name"]]
        assert kernel["tensor_core_instructions"]


def test_experts_when_compiled_for_hopper_then_no_weight_changes_lanes_and_no_round_waits_for_its_scales(
    compiled: list[dict[str, Any]],
) -> None:
    kernels = [kernel for kernel in compiled if kernel["name"] in GEMV | GEMM and kernel["case"] in CASES[:2]]
    assert len(kernels) == 4
    for kernel in kernels:
        assert (kernel["loop_exchanges"], kernel["hasty_loads"]) == (0, 0)
        # so that at least three programs of either fit on a multiprocessor, which has 228
        assert kernel["shared_bytes"] <= (72 if kernel["name"] in GEMM else 16) * 1024


def test_experts_when_compiled_for_hopper_then_no_multiplication_reads_registers_that_are_given_away(
    compiled: list[dict[str, Any]],
) -> None:
    # where weights come from registers, and others are computed before it is waited for (triton issue 9433)
    kernels = [kernel for kernel in compiled if kernel["name"] in GEMM and kernel["capability"] == 90]
    assert len(kernels) > 2
    assert {kernel["pending_multiplications"] for kernel in kernels} == {0}


@pytest.mark.parametrize("capability", [90, 80])
def test_skinny_matmuls_when_compiled_then_many_warps_have_room_and_tiles_are_on_the_tensor_cores(
    compiled: list[dict[str, Any]], capability: int
) -> None:
    kernels = [kernel for kernel in compiled if kernel["name"] in SKINNY and kernel["capability"] == capability]
    assert max(kernel["registers"] for kernel in kernels) <= 80
    assert all(kernel["tensor_core_instructions"] for kernel in kernels if kernel["name"] == "_skinny_tile")


def test_attention_when_compiled_for_hopper_then_decoding_leaves_room_for_many_warps(
    compiled: list[dict[str, Any]],
) -> None:
    # full and sliding layers each
    few, many = (
        [kernel for kernel in compiled if kernel["name"] == "_attend_tiles" and kernel["case"] == case]
        for case in CASES[:2]
    )
    assert max(kernel["registers"] for kernel in few) <= 80
    assert max(kernel["registers"] for kernel in many) <= 168
    assert all(kernel["tensor_core_instructions"] for kernel in few + many)


@pytest.mark.parametrize("case", FLOAT8_CASES)
def test_attention_when_compiled_for_an_fp8_cache_then_it_runs_on_the_tensor_cores_without_spills(
    compiled: list[dict[str, Any]], case: str
) -> None:
    kernels = [kernel for kernel in compiled if kernel["case"] == case]
    attends = [kernel for kernel in kernels if kernel["name"] == "_attend_tiles"]
    stores = "_project_vector" if f":{FEW}:" in case else "_rotate_and_store"
    assert {kernel["name"] for kernel in kernels} == {"_attend_tiles", "_join_splits", stores}
    assert spills(kernels) == set()
    assert len(attends) == 2
    assert all(kernel["tensor_core_instructions"] for kernel in attends)
    # 128 leave room for four programs of 128 threads on a multiprocessor
    assert f":{FEW}:" not in case or max(kernel["registers"] for kernel in attends) <= 128


def test_kernels_when_they_begin_before_others_end_then_each_waits_before_it_touches_what_those_do(
    compiled: list[dict[str, Any]],
) -> None:
    kernels = [kernel for kernel in compiled if kernel["case"] in DEPENDENT_CASES]
    decoding = (
        GEMV
        | GEMM
        | {"_attend_tiles"}
        | SAMPLING
        | SKINNY
        | ROUTING
        | STEP
        | {"_project_tile", "_sort_pairs", "_join_splits"}
    )
    assert {kernel["name"] for kernel in kernels} == decoding
    assert spills(kernels) == set()
    # the weights and biases of one row's matmul and of the router, which nobody writes
    early = {kernel["name"]: kernel["early"] for kernel in kernels if kernel["early"]}
    assert early.keys() == {"_project_vector", "_skinny_vectors", "_norm_and_score"}
    assert all(access.startswith("LDG.") for accesses in early.values() for access in accesses)


def test_kernels_when_launched_the_usual_way_then_none_waits(compiled: list[dict[str, Any]]) -> None:
    assert {kernel["early"] is None for kernel in compiled if kernel["case"] in CASES} == {True}


@pytest.mark.parametrize("capability", [90, 80])
def test_gemm_when_compiled_then_it_runs_on_the_tensor_cores(compiled: list[dict[str, Any]], capability: int) -> None:
    kernels = [kernel for kernel in compiled if kernel["name"] in GEMM and kernel["capability"] == capability]
    assert {kernel["name"] for kernel in kernels} == GEMM
    assert all(kernel["tensor_core_instructions"] for kernel in kernels)
