from pathlib import Path

from gorae.checkpoint import save_model
from gorae.client import ChatClient
from gorae.recipes import LaptopSettings, Run, ServeSettings
from gorae.recipes.corpus import sealed_items
from gorae.recipes.serving import ABOUT, UNKNOWN, example_questions, model_name, serve_model, words_of_the_page
from gorae.server import serving


def test_examples_are_two_in_each_language_and_always_the_same():
    examples = example_questions()
    assert [example["language"] for example in examples] == ["ko", "ko", "zh", "zh", "en", "en"]
    assert len({example["text"] for example in examples}) == 6
    assert example_questions() == examples


def test_what_a_server_has_read_is_found_in_its_folder_by_the_next_one(network, tokenizer, tmp_path, monkeypatch):
    save_model(tmp_path / "model", network, tokenizer=tokenizer)
    question = {"role": "user", "content": "1 plus 2 minus 3 " * 9}
    usages = []

    def ask(api, *_, **__):
        with serving(api) as url, ChatClient(f"{url}/v1") as client:
            usages.append(client.complete([question], max_tokens=1).usage)

    monkeypatch.setattr("gorae.recipes.serving.serve", ask)
    for folder in (None, tmp_path / "deep/prefixes", tmp_path / "deep/prefixes", None):
        serve_model(tmp_path / "model", ServeSettings(), prefix_folder=folder)
    known = [usage["prompt_cache_hit_tokens"] for usage in usages]
    assert known == [0, 0, usages[0]["prompt_tokens"] // 32 * 32, 0]
    assert known[2] > 0


def test_no_example_is_a_sealed_item():
    sealed = {problem.prompt for problem in sealed_items(LaptopSettings().prepare).problems}
    assert not sealed & {example["text"] for example in example_questions()}


def test_the_page_says_in_three_languages_what_the_model_can_and_can_not_do():
    assert ABOUT.keys() == {"ko", "zh", "en"}
    for words in ABOUT.values():
        assert len(words.splitlines()) == 3


def test_a_model_from_elsewhere_is_not_said_to_know_our_problems(tmp_path):
    ours = tmp_path / "run/rl/model"
    ours.mkdir(parents=True)
    assert words_of_the_page(ours) == {"examples": [], "about": UNKNOWN}
    Run.open(tmp_path / "run", LaptopSettings())
    assert words_of_the_page(ours) == {"examples": example_questions(), "about": ABOUT}
    assert UNKNOWN.keys() == ABOUT.keys()


def test_a_model_of_a_run_is_named_after_run_and_stage_and_another_after_its_folder():
    assert model_name(Path("/runs/laptop/rl/model")) == "gorae-laptop-rl"
    assert model_name(Path("/models/DeepSeek-V3")) == "DeepSeek-V3"
