"""`gorae reproduce reasoning` in small: two seeds, everything they are compared with, medians, claims."""

import json

import pytest

from gorae.recipes import reproduce
from gorae.recipes.claims import CLAIMS

MODELS = {*reproduce.MEASURED, *reproduce.EXTRA_MEASURED, *reproduce.IN_WORDS}


@pytest.fixture(scope="module")
def run(tmp_path_factory, gorae, tiny_flags):
    folder = tmp_path_factory.mktemp("reasoning") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "ITEMS", 3)
        called = gorae("reproduce", "reasoning", "--seeds", "11", "12", "--out", folder, *tiny_flags)
    assert called.status == 0, called.err
    assert "of 2" in called.out
    return folder


@pytest.fixture(scope="module")
def report(run) -> dict:
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_report_has_one_entry_a_seed_the_medians_and_every_claim(report):
    assert report.keys() == {"seeds", "median", "claims"}
    assert report["seeds"].keys() == {"11", "12"}
    assert report["claims"].keys() == {claim.told for claim in CLAIMS}
    assert all(len(held) == 2 for held in report["claims"].values())
    for one in (*report["seeds"].values(), report["median"]):
        assert one["evaluation"].keys() == MODELS
        assert one["seconds"] > 0
    lengths = [report["seeds"][seed]["evaluation"]["rl"]["mean_length"] for seed in ("11", "12")]
    assert report["median"]["evaluation"]["rl"]["mean_length"] == pytest.approx(sum(lengths) / 2)


@pytest.mark.slow
def test_seeds_train_different_models_and_answer_the_same_sealed_items(run, report):
    first, second = (report["seeds"][seed] for seed in ("11", "12"))
    assert first["sealed_items"] == second["sealed_items"]
    weights = [(run / f"seed-{seed}/rl/model/model.safetensors").read_bytes() for seed in (11, 12)]
    assert weights[0] != weights[1]


@pytest.mark.slow
def test_a_student_taught_otherwise_spends_what_distilling_took_and_at_most_a_step_more(run, report):
    for one in report["seeds"].values():
        stages = {stage["stage"]: stage["flops"] for stage in one["bill"]["stages"]}
        compute, distilling = one["compute"], stages["traces"] + stages["distill"]
        assert compute.keys() == {"student_rl", "student_logits", "student_policy"}
        for name, spent in compute.items():
            allowed = stages["distill"] if name == "student_logits" else distilling
            assert spent["allowed"] == pytest.approx(allowed), name
            assert spent["counted"] >= spent["allowed"], name
            seed = one["settings"]["seed"]
            num_steps = len((run / f"seed-{seed}/{name}/metrics.jsonl").read_text().splitlines())
            assert spent["counted"] * (num_steps - 1) / num_steps < 1.5 * spent["allowed"], name


@pytest.mark.slow
def test_rl_alone_begins_with_the_base_model_asked_as_its_corpus_asked(run):
    base, asked = (run / f"seed-11/{stage}/model" for stage in ("pretrain", "zero_start"))
    assert (base / "model.safetensors").read_bytes() == (asked / "model.safetensors").read_bytes()
    assert (asked / "chat_template.jinja").read_text().endswith("\n=")


@pytest.mark.slow
def test_pictures_and_table_of_the_medians_are_there(run):
    text = (run / "report.md").read_text(encoding="utf-8")
    assert all(name in text for name in MODELS)
    assert (run / "accuracy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_task_from_elsewhere_is_reported_or_said_to_be_missing(report):
    for one in report["seeds"].values():
        foreign = one["reasoning_gym"]
        assert foreign["family"] == "chain_sum"
        assert "missing" in foreign or {"base", "rl", "student_distilled"} <= foreign.keys()
