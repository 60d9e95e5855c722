"""Loading checkpoints: layouts, and what is said of a broken folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRotaryEmbedding

from gptoss_backend.demo.naming import DEMO_NAME, is_demo
from gptoss_backend.demo.random_checkpoint import Shape, write_random_checkpoint
from gptoss_backend.engine.checkpoint import find_checkpoint, load_weights
from gptoss_backend.engine.checkpoint_files import fingerprint
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import CheckpointError
from gptoss_backend.engine.loading import load_model
from gptoss_backend.engine.mxfp4 import unpack_mxfp4
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.rope import RotaryEmbedding
from gptoss_backend.engine.shard import Shard
from support.reference import make_reference, reference_logits
from support.stepping import StepByStep, load_torch_model

CPU = torch.device("cpu")
SMALL = Shape(
    hidden_size=64,
    num_layers=2,
    num_experts=4,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=32,
    head_dim=16,
    vocab_size=300,
)
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 4096,
    "truncate": False,
}


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    save_file(change(load_file(path)), path, {"format": "pt"})


def without(document: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != key}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    folder = tmp_path / "published"
    write_random_checkpoint(folder, SMALL, seed=1, name="a test")
    return folder


def load(folder: Path) -> None:
    load_weights(folder, Shard.of_all(ModelConfig.from_folder(folder)), torch.float32, CPU)


def test_load_when_experts_are_mxfp4_then_they_are_unpacked(published: Path) -> None:
    shard = load_file(published / "model-00002-of-00003.safetensors")
    prefix = "model.layers.0.mlp.experts.gate_up_proj"
    expected = unpack_mxfp4(shard[f"{prefix}_blocks"], shard[f"{prefix}_scales"], torch.float32)
    weights = load_weights(published, Shard.of_all(ModelConfig.from_folder(published)), torch.float32, CPU)
    assert torch.equal(weights.layers[0].experts.gate_up, expected)
    assert weights.layers[0].experts.gate_up.shape == (4, 64, 64)


def test_published_folder_when_transformers_loads_it_then_logits_agree(published: Path) -> None:
    reference = GptOssForCausalLM.from_pretrained(published, attn_implementation="eager", dtype=torch.bfloat16)
    weights = {name: tensor.float() for name, tensor in reference.state_dict().items()}
    exact = GptOssForCausalLM(reference.config).eval()  # float32 throughout, rotary frequencies too
    exact.config._attn_implementation = "eager"
    exact.load_state_dict(weights)
    run = StepByStep(load_torch_model(published), list(range(200)))
    run.prefill(200)
    torch.testing.assert_close(run.logits[0], reference_logits(exact, list(range(200))), atol=1e-3, rtol=0.0)


def test_random_checkpoint_when_the_seed_is_the_same_then_so_are_the_bytes(published: Path, tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "again", SMALL, seed=1, name="a test")
    write_random_checkpoint(tmp_path / "other", SMALL, seed=2, name="a test")
    files = sorted(path.name for path in published.iterdir())
    assert files == sorted(path.name for path in (tmp_path / "again").iterdir())
    assert all((published / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)
    assert (published / files[-2]).read_bytes() != (tmp_path / "other" / files[-2]).read_bytes()


def test_fingerprint_when_files_or_weights_differ_then_only_the_weights_count(published: Path, tmp_path: Path) -> None:
    tensors = {name: tensor for file in published.glob("*.safetensors") for name, tensor in load_file(file).items()}
    sinks = "model.layers.1.self_attn.sinks"
    for place, told in (("whole", tensors), ("tuned", tensors | {sinks: tensors[sinks] + 1})):
        (tmp_path / place).mkdir()
        save_file(told, tmp_path / place / "model.safetensors")
    assert fingerprint(published) == fingerprint(tmp_path / "whole") != fingerprint(tmp_path / "tuned")


def test_demo_when_its_folder_is_looked_at_then_it_is_known_from_others(published: Path, tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "demo", SMALL, seed=1, name=DEMO_NAME)
    assert is_demo(tmp_path / "demo")
    assert not is_demo(published)
    assert not is_demo(tmp_path / "nothing")


def test_load_when_the_layout_is_one_file_then_it_loads(tmp_path: Path) -> None:
    make_reference("base", tmp_path, dtype=torch.bfloat16)
    assert (tmp_path / "model.safetensors").exists()
    load(tmp_path)


def test_load_when_a_shard_is_missing_then_the_sentence_names_it(published: Path) -> None:
    (published / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"shard .*model-00002-of-00003\.safetensors is missing"):
        load(published)


def test_load_when_a_shard_is_cut_short_then_the_sentence_names_it(published: Path) -> None:
    shard = published / "model-00003-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model-00003-of-00003\.safetensors is corrupt or cut short"):
        load(published)


def test_load_when_a_tensor_is_missing_or_misshapen_then_the_sentence_names_it(published: Path) -> None:
    shard = published / "model-00001-of-00003.safetensors"
    tensors = load_file(shard)
    save_file(tensors | {"lm_head.weight": tensors["lm_head.weight"][:10].contiguous()}, shard)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight has shape \[10, 64\], config\.json asks \[300, 64\]"):
        load(published)
    index = json.loads((published / "model.safetensors.index.json").read_text())
    del index["weight_map"]["model.norm.weight"]
    (published / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lacks the tensor model\.norm\.weight"):
        load(published)


def renamed(name: str) -> str:
    return name.replace("experts.gate_up_proj", "experts.gate_up_projs.0")


@pytest.mark.parametrize(
    ("rename", "sentence"),
    [
        (
            lambda name: f"base_model.model.{name}",
            r"lacks the tensor lm_head\.weight and \d+ more, but holds base_model\.model\.lm_head\.weight: merge the",
        ),
        (
            lambda name: name.removeprefix("model."),
            r"lacks the tensor model\.embed_tokens\.weight and \d+ more, but holds embed_tokens\.weight$",
        ),
        (renamed, r"lacks the tensor model\.layers\.0\.mlp\.experts\.gate_up_proj and \d+ more, but holds model\.lay"),
    ],
    ids=["PEFT", "no prefix", "Unsloth"],
)
def test_load_when_tensors_have_other_names_then_the_sentence_shows_one(
    tmp_path: Path, rename: Callable[[str], str], sentence: str
) -> None:
    make_reference("base", tmp_path)
    rewrite(tmp_path / "model.safetensors", lambda tensors: {rename(name): each for name, each in tensors.items()})
    with pytest.raises(CheckpointError, match=sentence):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("model.layers.0.self_attn.q_proj.lora_A.weight", r"q_proj\.lora_A\.weight: merge the adapter into the model"),
        ("model.layers.4.input_layernorm.weight", r"the tensor model\.layers\.4\.input_layernorm\.weight$"),
        ("lm_head.bias", r"config\.json does not speak of, or is not computed here: the tensor lm_head\.bias$"),
    ],
)
def test_load_when_there_are_tensors_that_are_not_computed_then_the_sentence_names_one(
    tmp_path: Path, name: str, sentence: str
) -> None:
    make_reference("base", tmp_path)
    rewrite(tmp_path / "model.safetensors", lambda tensors: tensors | {name: torch.zeros(4)})
    with pytest.raises(CheckpointError, match=sentence):
        load(tmp_path)


def test_load_when_old_versions_saved_what_is_recomputed_then_it_is_passed_over(tmp_path: Path) -> None:
    make_reference("base", tmp_path)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(tmp_path / "model.safetensors", lambda tensors: tensors | {name: torch.zeros(16)})
    load(tmp_path)


def test_load_when_the_unembedding_is_tied_then_the_embedding_is_read_as_transformers_does(tmp_path: Path) -> None:
    make_reference("base", tmp_path)
    rewrite(tmp_path / "model.safetensors", lambda tensors: without(tensors, "lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"lacks the tensor lm_head\.weight$"):
        load(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))
    reference = GptOssForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    run = StepByStep(load_torch_model(tmp_path), list(range(50)))
    run.prefill(50)
    torch.testing.assert_close(run.logits[0], reference_logits(reference, list(range(50))), atol=1e-3, rtol=0.0)


def test_load_when_a_whole_file_lies_beside_an_index_then_it_counts_as_for_transformers(
    published: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "merged"
    reference = make_reference("base", folder)
    for path in published.glob("model*"):  # of another shape: what was downloaded
        path.rename(folder / path.name)
    with caplog.at_level("INFO"):
        model = load_model(folder, EngineOptions(dtype="float32", cpu_kernels="torch"), device=CPU)
    assert "model.safetensors is whole in itself: model.safetensors.index.json beside it is passed over" in caplog.text
    assert model.config.vocab_size == reference.config.vocab_size


def test_load_when_the_file_beside_an_index_is_only_a_part_then_the_index_counts(published: Path) -> None:
    save_file({"model.norm.weight": torch.zeros(64)}, published / "model.safetensors")
    load(published)


@pytest.mark.parametrize(
    ("weight_map", "sentence"),
    [
        ([], "not a readable shard index"),
        ({"model.norm.weight": 3}, "a tensor's file is no name"),
        (
            {"lm_head.weight": "model-00002-of-00003.safetensors"},
            r"model-00002-of-00003\.safetensors lacks the tensor lm_head\.weight, which the index says",
        ),
    ],
    ids=["no map", "no name", "wrong shard"],
)
def test_load_when_the_index_is_wrong_then_the_sentence_says_how(
    published: Path, weight_map: object, sentence: str
) -> None:
    path = published / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = index["weight_map"] | weight_map if isinstance(weight_map, dict) else weight_map
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=sentence):
        load(published)


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        (
            "lm_head.weight",
            lambda tensor: tensor.to(torch.float8_e4m3fn),
            r"lm_head\.weight is of F8_E4M3, not of BF16",
        ),
        (
            "model.norm.weight",
            lambda tensor: tensor * torch.nan,
            r"model\.norm\.weight holds values that are no finite",
        ),
    ],
    ids=["float8", "no number"],
)
def test_load_when_numbers_are_of_no_use_then_the_sentence_names_the_tensor(
    published: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor], sentence: str
) -> None:
    shard = published / json.loads((published / "model.safetensors.index.json").read_text())["weight_map"][name]
    tensors = load_file(shard)
    save_file(tensors | {name: change(tensors[name])}, shard)
    with pytest.raises(CheckpointError, match=sentence):
        load(published)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        ({"model_type": "llama"}, "model type 'llama', not 'gpt_oss'"),
        ({"num_hidden_layers": None}, "num_hidden_layers is None, not a whole number above 0"),
        ({"num_hidden_layers": 1}, "layer_types does not name one"),
        ({"max_position_embeddings": "131072"}, "max_position_embeddings is '131072', not a whole number"),
        ({"sliding_window": -5}, "sliding_window is -5, not a whole number above 0"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok is 9, but there are 4 experts"),
        ({"num_key_value_heads": 3}, "cannot share 3 key-value heads"),
        ({"rms_norm_eps": None}, "a value of the wrong type"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised by 'fp8' are not computed here"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', not 'silu'"),
        ({"attention_bias": False}, "attention without biases is not computed here"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope type 'llama3'"),
        ({"rope_scaling": {"type": "linear"}}, "rope type 'linear'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "YaRN's factor is missing, not a number from 1 on"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 0.5}}, "YaRN's factor is 0.5"),
        ({"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}}, "asks for mscale, which is not computed"),
        ({"rope_scaling": YARN | {"mscale_all_dim": 1.0}}, "asks for mscale_all_dim, which is not computed"),
        ({"rope_scaling": YARN | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5, but whole heads"),
        ({"partial_rotary_factor": 0.25}, "partial_rotary_factor is 0.25, but whole heads"),
        ({"rope_scaling": {"full_attention": YARN}}, "one rotary embedding for each kind of layer"),
    ],
    ids=str,
)
def test_config_when_it_is_wrong_then_the_sentence_says_how(
    published: Path, edit: dict[str, object], sentence: str
) -> None:
    path = published / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    with pytest.raises(CheckpointError, match=sentence):
        ModelConfig.from_folder(published)


@pytest.mark.parametrize("method", ["mxfp4", "MXFP4"])
def test_config_when_mxfp4_is_written_in_capitals_then_it_is_read(published: Path, method: str) -> None:
    path = published / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": method}}))
    load(published)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "holds a LoRA adapter: merge it into its model first"),
        (["gpt-oss-20b-mxfp4.gguf"], "holds GGUF files, as llama.cpp reads them: give a folder in the layout"),
        (["model.bin"], "holds a model for Apple's Metal: give a folder in the layout of openai/gpt-oss-20b"),
        (["config.json", "dtypes.json", "model.safetensors"], "OpenAI's original layout: give the folder above, which"),
    ],
    ids=["adapter", "GGUF", "Metal", "original"],
)
def test_config_when_the_folder_holds_another_layout_then_the_sentence_says_what_to_give(
    tmp_path: Path, files: list[str], sentence: str
) -> None:
    folder = tmp_path / "original"
    folder.mkdir()
    for file in files:
        (folder / file).write_text("{}")
    with pytest.raises(CheckpointError, match=sentence):
        ModelConfig.from_folder(folder)


def test_config_when_a_key_is_missing_then_the_sentence_names_it(published: Path) -> None:
    path = published / "config.json"
    document = json.loads(path.read_text())
    del document["hidden_size"]
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="lacks the key 'hidden_size'"):
        ModelConfig.from_folder(published)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        ModelConfig.from_folder(published)
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot read"):
        ModelConfig.from_folder(published)


def test_find_when_the_checkpoint_is_nowhere_then_the_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="gptoss pull openai/no-such-model"):
        find_checkpoint("openai/no-such-model")
    with pytest.raises(CheckpointError, match="does not exist"):
        find_checkpoint(str(tmp_path / "nothing"))
    assert find_checkpoint(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("shape", ["base", "many_heads_no_grouping"])
def test_rope_when_scaled_by_yarn_then_angles_match_transformers(shape: str, tmp_path: Path) -> None:
    reference = make_reference(shape, tmp_path)
    config = ModelConfig.from_folder(tmp_path)
    positions = torch.tensor([0, 1, 127, 4000, 131071])
    cos, sin = RotaryEmbedding(config.rope, config.head_dim, CPU).angles(positions, torch.float32)
    expected_cos, expected_sin = reference.model.rotary_emb(torch.zeros(1), positions[None])
    torch.testing.assert_close(cos[:, 0], expected_cos[0], atol=1e-4, rtol=0.0)
    torch.testing.assert_close(sin[:, 0], expected_sin[0], atol=1e-4, rtol=0.0)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"rope_theta": 150000, "rope_scaling": None},
        {"rope_theta": 150000, "rope_scaling": {}},
        {"rope_parameters": {}},
        {"rope_theta": 10000.0, "rope_scaling": YARN},
        {"rope_theta": 10000.0, "rope_parameters": YARN | {"rope_theta": 150000.0}},
        {"rope_scaling": YARN, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"rope_theta": 150000, "rope_scaling": without(YARN, "rope_type") | {"type": "yarn"}},
        {"rope_theta": 150000, "rope_scaling": without(YARN, "truncate")},
        {"rope_theta": 150000, "rope_scaling": without(YARN, "original_max_position_embeddings")},
        {"original_max_position_embeddings": 8192, "rope_scaling": YARN},
        {"rope_theta": 150000, "rope_scaling": YARN | {"attention_factor": 1.0}},
        {"rope_theta": 150000, "rope_scaling": YARN | {"attention_factor": 1.25, "factor": 1.0}},
        {"rope_theta": 150000, "rope_scaling": {"rope_type": "default"}},
    ],
    ids=str,
)
def test_rope_when_keys_are_missing_or_spelled_otherwise_then_transformers_reads_the_same(keys: dict[str, Any]) -> None:
    document: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
    }
    ours = RotaryEmbedding(ModelConfig.from_document(deepcopy(document | keys)).rope, 64, CPU)
    theirs = GptOssRotaryEmbedding(GptOssConfig.from_dict(deepcopy(document | keys)))
    torch.testing.assert_close(ours.inverse_frequencies, theirs.inv_freq, atol=0.0, rtol=1e-5)
    assert ours.amplitude == pytest.approx(theirs.attention_scaling)
