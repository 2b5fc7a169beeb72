"""What `gorae bench` counts; nothing is claimed about time."""

from dataclasses import replace

import pytest

from gorae.checkpoint import save_model
from gorae.config import ModelConfig, cache_bytes_per_token, forward_flops, weights_read
from gorae.engine import DECODED, LINES, Engine, Line
from gorae.model import Network
from gorae.recipes import Peaks, Speed, measure_speed, speed

CONFIG = ModelConfig(
    vocab_size=50,
    model_dim=16,
    num_layers=2,
    num_heads=2,
    query_rank=8,
    latent_dim=8,
    nope_dim=4,
    rope_dim=4,
    value_dim=4,
    dense_dim=16,
    expert_dim=8,
    num_experts=4,
    num_active_experts=2,
    max_positions=1024,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "measure_peaks", lambda: Peaks("a processor", 1, "portable", 1e9, 2e9, 4e9))
    save_model(tmp_path / "model", Network(CONFIG, seed=0))
    return tmp_path / "model"


def test_what_fits_is_timed_and_what_does_not_says_why(folder):
    told = []
    report = measure_speed(folder, turns=1, tell=told.append)
    assert [one.line for one in report.speeds] == ["prefill 512", "decode", "8 at once", "16 at once"]
    assert set(report.left_out) == set(LINES) - {one.line for one in report.speeds}
    assert "1024 positions" in report.left_out["decode at 2048"]
    assert told == [report.peaks, *report.speeds]
    assert report.parameters.total > report.parameters.active > 0


def test_a_share_is_what_a_token_takes_times_the_tokens_over_what_the_machine_gives(folder):
    (found,) = measure_speed(folder, only=["decode"], turns=2).speeds
    assert isinstance(found, Speed)
    assert found.weight_bytes_per_token == pytest.approx(4 * weights_read(CONFIG))
    depth = 8 + DECODED / 2
    assert found.cache_bytes_per_token == pytest.approx(depth * cache_bytes_per_token(CONFIG))
    assert found.flops_per_token == pytest.approx(forward_flops(CONFIG, 1, context=depth))
    read = found.tokens_per_second * (found.weight_bytes_per_token + found.cache_bytes_per_token)
    assert found.share_of_reading == pytest.approx(read / 1e9)
    assert found.share_of_flops == pytest.approx(found.tokens_per_second * found.flops_per_token / 2e9)
    assert found.share == max(found.share_of_reading, found.share_of_flops)
    assert found.lowest <= found.tokens_per_second <= found.highest


def test_requests_at_once_share_the_weights_of_a_step_and_a_prompt_those_of_a_pass(folder):
    engine = Engine(type("Model", (), {"network": Network(CONFIG), "config": CONFIG, "tokenizer": None})())
    one, eight, whole = (speed.taken_per_token(engine, LINES[name]) for name in ("decode", "8 at once", "prefill 512"))
    assert eight[0] == pytest.approx(4 * weights_read(CONFIG, 8) / 8)
    assert whole[0] == pytest.approx(4 * weights_read(CONFIG, 512) / 512)
    assert one[0] > eight[0] > whole[0]
    assert eight[1] == pytest.approx((LINES["8 at once"].depth + DECODED / 2) * cache_bytes_per_token(CONFIG))


def test_a_long_prompt_is_counted_pass_by_pass():
    steps = list(speed.steps_of(replace(LINES["prefill 512"], depth=1000), 400))
    assert steps == [(400, 1, 200.0), (400, 1, 600.0), (200, 1, 900.0)]
    assert sum(tokens * context for tokens, _, context in steps) == 1000 * 1000 / 2
    assert list(speed.steps_of(Line("two", 8, requests=2), 400)) == [(2, 2, 8 + DECODED / 2)]


def test_an_unknown_line_is_refused_with_those_there_are(folder):
    with pytest.raises(ValueError, match="'decode at 2048'"):
        measure_speed(folder, only=["walking"])


def test_this_machine_is_measured():
    peaks = speed.measure_peaks(seconds=0.01)
    assert peaks.read_bytes_per_second > 0
    assert peaks.flops_per_second > 0
    assert peaks.int8_per_second > 0


def test_fast_mode_is_held_against_products_of_integers_where_there_are_any(folder):
    (exact,) = measure_speed(folder, only=["decode"], turns=1).speeds
    report = measure_speed(folder, mode="fast", only=["decode"], turns=1)
    (fast,) = report.speeds
    assert (exact.arithmetic, fast.arithmetic, report.mode) == ("float32", "int8", "fast")
    assert fast.share_of_flops == pytest.approx(fast.tokens_per_second * fast.flops_per_token / 4e9)
    assert fast.cache_bytes_per_token < exact.cache_bytes_per_token / 2


def test_a_narrower_cache_is_counted_as_it_is(folder):
    held = {}
    for cache_type in (None, "int8"):
        options = {"mode": "fast", "cache_type": cache_type}
        (found,) = measure_speed(folder, only=["decode"], turns=1, **options).speeds
        held[cache_type] = found.cache_bytes_per_token / cache_bytes_per_token(CONFIG, is_fast=True)
    each = CONFIG.latent_dim + CONFIG.rope_dim
    assert held["int8"] / held[None] == pytest.approx((each + 2) / (2 * each))  # a scale for up to 32 numbers
