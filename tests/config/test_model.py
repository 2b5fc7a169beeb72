import dataclasses

import pytest

from gorae.config import PRESETS

V3 = PRESETS["deepseek-v3"]


def test_derived_sizes_follow_from_the_fields():
    assert V3.key_dim == 192
    assert V3.shared_dim == 2048
    assert [V3.is_dense(layer) for layer in (0, 2, 3, 60)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_dim": 0}, "model_dim=0 must be positive"),
        ({"expert_dim": -1}, "expert_dim=-1 must be positive"),
        ({"norm_eps": 0.0}, "norm_eps=0.0 must be positive"),
        ({"rope_dim": 63}, "rope_dim=63 must be even"),
        ({"num_mtp_modules": -1}, "num_mtp_modules=-1 must not be negative"),
        ({"num_dense_layers": 62}, "num_dense_layers=62 must lie between 0 and num_layers=61"),
        ({"num_active_experts": 257}, "num_active_experts=257 must lie between 1 and num_experts=256"),
        ({"num_active_groups": 9}, "num_active_groups=9 must lie between 1 and num_expert_groups=8"),
        ({"num_expert_groups": 7}, "num_experts=256 cannot be split into num_expert_groups=7 equal groups"),
        ({"num_expert_groups": 256}, "num_expert_groups=256 leaves 1 expert a group"),
        ({"num_active_groups": 1, "num_active_experts": 33}, "exceeds the 32 experts of num_active_groups=1"),
        ({"eos_id": 5, "stop_ids": (4, 5)}, r"stop_ids=\(4, 5\) must be all different, and others than an eos_id=5"),
        ({"eos_id": None, "stop_ids": (4,)}, "others than an eos_id=None that there is"),
        ({"norm_eps": float("inf")}, "norm_eps=inf must be positive"),
        ({"num_layers": 10_000}, "num_layers=10000 must be at most 4096"),
        ({"num_layers": 4096, "num_experts": 512}, "num_experts=512 each must be at most 1048576 experts"),
        ({"eos_id": 129_280}, "eos_id=129280 must lie between 0 and vocab_size - 1=129279"),
    ],
)
def test_a_network_that_cannot_be_is_refused_with_value_and_rule(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(V3, **change)
