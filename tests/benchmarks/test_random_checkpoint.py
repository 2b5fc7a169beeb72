import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gorae.checkpoint import load
from gorae.checkpoint.shards import Shards
from gorae.config import ModelConfig, to_published

write_random = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/random_checkpoint.py"))["write_random"]

CONFIG = ModelConfig(
    vocab_size=300,
    model_dim=130,
    num_layers=2,
    num_heads=2,
    query_rank=6,
    latent_dim=4,
    nope_dim=4,
    rope_dim=4,
    value_dim=4,
    dense_dim=20,
    expert_dim=8,
    num_experts=4,
    num_active_experts=2,
    num_mtp_modules=1,
    init_std=0.05,
)


def test_a_random_checkpoint_is_loaded_and_has_the_deviation_of_its_config(tmp_path):
    published = to_published(CONFIG) | {"quantization_config": {"quant_method": "fp8"}}
    write_random(tmp_path / "bf16", published, fp8=False, max_shard_bytes=50_000)
    network = load(tmp_path / "bf16", weights="float32").network
    assert len(list((tmp_path / "bf16").glob("*.safetensors"))) > 2
    assert network.embedding_WD.std().item() == pytest.approx(0.05, rel=0.02)  # of 39,000 draws
    assert torch.equal(network.norm_D, torch.ones(130))
    assert network.config == replace(CONFIG, num_mtp_modules=1)


def test_a_random_checkpoint_in_fp8_has_its_projections_in_fp8(tmp_path):
    write_random(tmp_path / "fp8", to_published(CONFIG), fp8=True)
    with Shards(tmp_path / "fp8") as shards:
        assert shards.layout("model.layers.0.mlp.up_proj.weight").type_name == "F8_E4M3"
        assert shards.layout("model.layers.0.mlp.up_proj.weight_scale_inv").shape == (1, 2)
        assert shards.layout("model.layers.1.mlp.gate.weight").type_name == "BF16"
        assert shards.layout("model.layers.1.mlp.gate.e_score_correction_bias").type_name == "F32"
