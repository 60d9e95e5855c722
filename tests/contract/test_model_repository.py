"""Every config.pbtxt and every variant says what the contract says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from gptoss_backend.contract import (
    GENERATE_INPUTS,
    GENERATE_OUTPUTS,
    PREPROCESS,
    PREPROCESS_INPUTS,
    PREPROCESS_OUTPUTS,
    TensorSpec,
)
from gptoss_backend.model_names import MODELS, ModelName

REPOSITORY = Path(__file__).parents[2] / "model_repository"
CPU, GPU, ALL_GPUS = ModelInstanceGroup.KIND_CPU, ModelInstanceGroup.KIND_GPU, ModelInstanceGroup.KIND_MODEL
INSTANCES = {"demo": (CPU, 1), "20b": (GPU, 1), "120b": (ALL_GPUS, 1)}
VARIANTS = {"configs/cpu.pbtxt": CPU, "configs/replicas.pbtxt": GPU, "configs/spread.pbtxt": ALL_GPUS}
GENERATORS = [
    pytest.param(model, variant, id=f"{model.short} {variant}")
    for model in MODELS
    for variant in ("config.pbtxt", *VARIANTS)
    if variant == "config.pbtxt" or INSTANCES[model.short][0] != CPU
]


def read_config(model: str, variant: str = "config.pbtxt") -> ModelConfig:
    return text_format.Parse((REPOSITORY / model / variant).read_text(encoding="utf-8"), ModelConfig())


def one_dimensional(specs: tuple[TensorSpec, ...]) -> list[tuple[str, str, list[int]]]:
    return [(spec.name, f"TYPE_{spec.datatype}", [-1]) for spec in specs]


def assert_tensors(config: ModelConfig, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    for said, meant in ((config.input, inputs), (config.output, outputs)):
        assert [(t.name, DataType.Name(t.data_type), list(t.dims)) for t in said] == one_dimensional(meant)
    assert config.max_batch_size == 0


def test_repository_when_listed_then_it_holds_the_contracts_models_and_no_other() -> None:
    folders = {path.name for path in REPOSITORY.iterdir()}
    assert folders == {PREPROCESS, *(m.triton for m in MODELS), *(m.ensemble for m in MODELS)}


def test_configs_when_listed_then_every_one_is_checked_here() -> None:
    found = {str(path.relative_to(REPOSITORY)) for path in REPOSITORY.rglob("*.pbtxt")}
    main = {f"{folder.name}/config.pbtxt" for folder in REPOSITORY.iterdir()}
    on_gpus = [m.triton for m in MODELS if INSTANCES[m.short][0] != CPU]
    variants = {f"{name}/{variant}" for name in on_gpus for variant in VARIANTS}
    assert found == main | variants


@pytest.mark.parametrize("folder", sorted(REPOSITORY.iterdir()), ids=lambda folder: folder.name)
def test_model_when_loaded_then_its_name_is_its_folder_and_version_1_is_there(folder: Path) -> None:
    assert read_config(folder.name).name == folder.name
    assert (folder / "1").is_dir()
    assert any((folder / "1").iterdir()), "git keeps no empty folder"


def test_preprocess_when_configured_then_it_is_cached_and_runs_twice_on_the_cpu() -> None:
    config = read_config(PREPROCESS)
    assert_tensors(config, PREPROCESS_INPUTS, PREPROCESS_OUTPUTS)
    assert config.backend == "python"
    assert config.response_cache.enable
    assert not config.model_transaction_policy.decoupled
    assert [(group.kind, group.count) for group in config.instance_group] == [(CPU, 2)]


@pytest.mark.parametrize(("model", "variant"), GENERATORS)
def test_generation_when_configured_then_it_is_decoupled_and_runs_on_its_hardware(
    model: ModelName, variant: str
) -> None:
    config = read_config(model.triton, variant)
    assert config.name == model.triton
    assert_tensors(config, GENERATE_INPUTS, GENERATE_OUTPUTS)
    assert config.backend == "python"
    assert config.model_transaction_policy.decoupled
    assert not config.response_cache.enable
    assert not config.HasField("dynamic_batching")
    instances = (VARIANTS[variant], 1) if variant in VARIANTS else INSTANCES[model.short]
    assert [(group.kind, group.count, list(group.gpus)) for group in config.instance_group] == [(*instances, [])]


@pytest.mark.parametrize(("model", "name"), GENERATORS)
def test_variant_when_compared_then_only_the_instances_differ(model: ModelName, name: str) -> None:
    usual, variant = read_config(model.triton), read_config(model.triton, name)
    usual.ClearField("instance_group")
    variant.ClearField("instance_group")
    assert usual == variant


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.short)
def test_ensemble_when_configured_then_preprocess_feeds_generation_and_shows_nothing_itself(model: ModelName) -> None:
    config = read_config(model.ensemble)
    assert config.platform == "ensemble"
    assert_tensors(config, PREPROCESS_INPUTS, GENERATE_OUTPUTS)
    assert not config.instance_group
    first, second = config.ensemble_scheduling.step
    assert (first.model_name, second.model_name) == (PREPROCESS, model.triton)
    assert (first.model_version, second.model_version) == (-1, -1)
    steps = ((first, PREPROCESS_INPUTS, PREPROCESS_OUTPUTS), (second, GENERATE_INPUTS, GENERATE_OUTPUTS))
    for step, inputs, outputs in steps:
        assert dict(step.input_map) == {spec.name: spec.name for spec in inputs}
        assert dict(step.output_map) == {spec.name: spec.name for spec in outputs}


@pytest.mark.parametrize("entry", sorted(REPOSITORY.glob("*/1/model.py")), ids=lambda entry: entry.parts[-3])
def test_entry_point_when_read_then_it_only_imports_its_class(entry: Path) -> None:
    wanted = ("preprocess", "Preprocess") if entry.parts[-3] == PREPROCESS else ("generate", "Generate")
    _, imported, exported = ast.parse(entry.read_text(encoding="utf-8")).body
    assert ast.unparse(imported) == f"from gptoss_backend.triton.{wanted[0]} import {wanted[1]} as TritonPythonModel"
    assert ast.unparse(exported) == "__all__ = ['TritonPythonModel']"
