"""lm-eval's model `gorae`: scores are those of the network's own logits, and of transformers on the same folder.

lm-eval is optional: what needs it is skipped where it is missing, and the rest holds without it.
"""

import json
import math
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gorae import load
from gorae.checkpoint import save_model
from gorae.recipes import harness
from gorae.recipes.harness import HarnessModel
from gorae.text import SpecialTokens, Tokenizer

needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed")
strangers_warn = pytest.mark.filterwarnings("ignore")  # of what its forty packages warn
TEXT = "계수기 더하기 3 빼기 4 plus 5 minus 加 减 78901 계수기 더하기 12 minus 계수기"


@pytest.fixture
def folder(tmp_path, network, tokenizer) -> Path:
    save_model(tmp_path / "model", network, tokenizer=tokenizer)
    return tmp_path / "model"


@pytest.fixture
def model(folder) -> HarnessModel:
    return HarnessModel(str(folder))


def asked(*args):
    return SimpleNamespace(args=args)


def score(model: HarnessModel, context: list[int], wanted: list[int]) -> tuple[float, bool]:
    """By the definition: the logits of each place, one softmax after the other."""
    logits_TW = load(model.path).logits(context + wanted).double()
    rows = torch.log_softmax(logits_TW, -1)[len(context) - 1 : -1]
    places = list(zip(rows, wanted, strict=True))
    return sum(row[token].item() for row, token in places), all(row.argmax() == token for row, token in places)


def test_a_continuation_is_scored_as_the_logits_of_the_whole_row_say(model):
    pairs = [("계수기 더하기", " 3 minus"), ("plus 12", "7"), ("加", "减减"), ("", "계수기 4"), ("plus  ", "minus")]
    found = model.loglikelihood([asked(*pair) for pair in pairs])
    for (context, wanted), (log_prob, is_greedy) in zip(pairs, found, strict=True):
        ids, wanted_ids = model.encode_pair(context, wanted)
        expected, expected_greedy = score(model, ids, wanted_ids)
        assert log_prob == pytest.approx(expected, abs=1e-5)
        assert is_greedy == expected_greedy


def test_the_greedy_continuation_is_known_as_such(model):
    context = model.encode("계수기 더하기")
    for _ in range(3):
        context.append(int(load(model.path).logits(context)[-1].argmax()))
    ids, wanted = context[:-3], context[-3:]
    other = [*wanted[:2], (wanted[2] + 1) % 300]
    assert [is_greedy for _, is_greedy in model.score([(ids, wanted), (ids, other)])] == [True, False]


def test_texts_are_cut_where_the_context_ends_and_spaces_there_belong_to_what_follows(model, tokenizer):
    context, wanted = model.encode_pair("plus  ", "minus")
    assert context == [tokenizer.bos_id, *tokenizer.encode("plus")]
    assert tokenizer.decode(wanted) == "  minus"
    assert model.encode_pair("", "plus") == ([tokenizer.bos_id], tokenizer.encode("plus"))
    assert model.encode_pair("\n", "plus") == ([tokenizer.bos_id], tokenizer.encode("\nplus"))
    assert model.score([([5], []), ([5], [6])])[0] == (0.0, True)


def test_a_begin_that_a_text_has_already_is_not_put_before_it_again(model, tokenizer):
    begun = tokenizer.piece(tokenizer.bos_id)[0] + "plus"
    assert model.encode(begun) == model.encode("plus") == [tokenizer.bos_id, *tokenizer.encode("plus")]
    assert model.encode_pair("", begun) == ([tokenizer.bos_id], tokenizer.encode("plus"))


def test_of_a_row_that_is_too_long_the_end_is_read(folder):
    narrow = HarnessModel(str(folder), max_length="6")
    ids = narrow.encode(TEXT)
    ((log_prob, _),) = narrow.score([(ids[:-2], ids[-2:])])
    assert log_prob == pytest.approx(score(narrow, ids[-7:-2], ids[-2:])[0], abs=1e-5)
    with pytest.raises(ValueError, match="7 tokens can not be scored at once: this model reads 6"):
        narrow.score([(ids[:1], ids[1:8])])
    for wrong in (0, 10**6):
        with pytest.raises(ValueError, match=f"max_length={wrong} must lie between 1 and"):
            HarnessModel(str(folder), max_length=wrong)


@pytest.mark.parametrize("num_tokens", [0, 1, 5, 6, 7, 12, 17])
def test_a_rolling_text_has_every_token_predicted_once_behind_as_much_as_there_is_room_for(folder, num_tokens):
    narrow = HarnessModel(str(folder), max_length=6)
    ids = narrow.encode(TEXT)[1 : num_tokens + 1]
    parts = list(narrow.windows(ids))
    assert [token for _, wanted in parts for token in wanted] == ids
    assert all(len(context) + len(wanted) <= 7 for context, wanted in parts)
    if num_tokens > 6:
        assert len(parts[-1][0]) + len(parts[-1][1]) == 7, "the last part stands behind all there is room for"


def test_the_log_probability_of_a_rolling_text_is_the_sum_of_its_parts(folder, tokenizer):
    narrow = HarnessModel(str(folder), max_length=6)
    texts = [TEXT, "plus", ""]
    found = narrow.loglikelihood_rolling([asked(text) for text in texts])
    for text, log_prob in zip(texts, found, strict=True):
        parts = narrow.windows(tokenizer.encode(text))
        assert log_prob == pytest.approx(sum(score(narrow, *part)[0] for part in parts), abs=1e-5)


def test_a_text_is_gone_on_with_up_to_a_stop_text(model):
    (whole,) = model.generate_until([asked("계수기", {"until": [], "max_gen_toks": 12})])
    stop = whole[len(whole) // 2]
    cut, short = model.generate_until(
        [asked("계수기", {"until": ["", stop], "max_gen_toks": 12}), asked("계수기", {"max_new_tokens": 1})]
    )
    assert cut == whole[: whole.index(stop)]
    assert len(short) < len(whole)
    assert whole.startswith(short)


def test_what_a_reply_is_asked_for_is_honoured_or_refused(model, tokenizer):
    settings = {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "seed": 3, "num_beams": 1, "max_tokens": 7}
    _, params = model.continuation("plus", settings)
    assert (params.temperature, params.top_p, params.seed, params.max_tokens) == (0.5, 0.9, 3, 7)
    _, greedy = model.continuation("plus", {"do_sample": False, "temperature": 0.7})
    assert (greedy.temperature, greedy.max_tokens) == (0.0, 256)
    _, ended = model.continuation("plus", {"until": [tokenizer.piece(tokenizer.user_id)[0], "\n\n"]})
    assert (ended.stop, ended.stop_token_ids) == (("\n\n",), (tokenizer.user_id,))
    ids, _ = model.continuation("plus " * 3000, {"max_gen_toks": 9})
    assert len(ids) == model.max_length - 9
    with pytest.raises(ValueError, match="num_beams=4 would change the reply"):
        model.continuation("plus", {"num_beams": 4})
    with pytest.raises(ValueError, match="tokens are to be written and"):
        model.continuation("plus", {"max_gen_toks": 10**6})


def test_thinking_is_dropped_where_its_end_is_named(folder, monkeypatch):
    thinking = HarnessModel(str(folder), think_end_token="</think>")
    replies = [SimpleNamespace(text="so</think>\n\n7"), SimpleNamespace(text="7")]
    monkeypatch.setattr(thinking.engine, "generate", lambda *_: replies)
    assert thinking.generate_until([asked("plus", {}), asked("plus", {})]) == ["7", "7"]


def test_a_conversation_as_text_has_the_ids_that_the_template_gives_it(model, tokenizer):
    turns = [{"role": "system", "content": "계수기."}, {"role": "user", "content": " 3 plus 4 ?\n"}]
    text = model.apply_chat_template(turns)
    messages = [harness.Message(turn["role"], turn["content"]) for turn in turns]
    assert model.encode(text) == tokenizer.encode_chat(messages)
    begun = model.apply_chat_template([*turns, {"role": "assistant", "content": "답:"}], add_generation_prompt=False)
    assert begun == text + "답:"
    with pytest.raises(ValueError, match="the last message is the user's"):
        model.apply_chat_template(turns, add_generation_prompt=False)
    assert model.chat_template(True) == tokenizer.chat_template
    assert model.chat_template(False) is None
    assert "/" not in model.tokenizer_name


def test_a_folder_without_a_tokenizer_is_refused(tmp_path, network):
    save_model(tmp_path / "mute", network)
    with pytest.raises(ValueError, match="mute has no tokenizer, and a suite is text"):
        HarnessModel(str(tmp_path / "mute"))


def test_without_lm_eval_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(ValueError, match=r"lm-eval is not installed; pip install 'gorae\[lm-eval\]'"):
        harness.register()


@needs_lm_eval
@strangers_warn
def test_scores_are_those_of_the_harness_own_model_on_the_same_folder(tmp_path, network, tokenizer):
    transformers, huggingface = import_module("transformers"), import_module("lm_eval.models.huggingface")
    # Theirs begins texts with what tokenizer.json says, and ours with the settings: here, nothing.
    special = SpecialTokens(begins_texts=False)
    save_model(tmp_path / "model", network, tokenizer=Tokenizer(tokenizer._library, special_tokens=special))
    theirs = huggingface.HFLM(
        pretrained=transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "model", experts_implementation="eager", dtype=torch.float32
        ),
        tokenizer=transformers.AutoTokenizer.from_pretrained(tmp_path / "model"),
        device="cpu",
        max_length=20,
        batch_size=3,
    )
    ours = harness.register()(str(tmp_path / "model"), max_length=20)
    pairs = [("계수기 더하기", " 3"), ("plus ", " minus 7"), ("", "加 减"), (TEXT * 3, " 12"), ("a\n", "b")]
    requests = [asked(*pair) for pair in pairs]
    for one, other in zip(ours.loglikelihood(requests), theirs.loglikelihood(requests), strict=True):
        assert one[0] == pytest.approx(other[0], abs=1e-4)
        assert one[1] == other[1]
    texts = [asked(text) for text in (TEXT * 3, "plus", TEXT[:20])]
    assert ours.loglikelihood_rolling(texts) == pytest.approx(theirs.loglikelihood_rolling(texts), abs=1e-4)
    wanted = [asked(text, {"until": ["\n\n"], "max_gen_toks": 6}) for text in ("계수기 더하기", "plus 12 minus", "加")]
    assert ours.generate_until(wanted) == theirs.generate_until(wanted)
    turns = [{"role": "user", "content": "3 plus 4?"}]
    assert ours.apply_chat_template(turns) == theirs.apply_chat_template(turns)


TASKS = {
    "choices": """
task: choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}]
""",
    "perplexity": """
task: perplexity
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list: [{{metric: word_perplexity}}]
""",
    "written": """
task: written
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 5, do_sample: false}}
metric_list: [{{metric: exact_match}}]
""",
}


@needs_lm_eval
@strangers_warn
@pytest.mark.slow
def test_its_command_runs_tasks_of_files_at_hand_without_network(folder, tmp_path):
    rows = [{"question": f"계수기 {n} plus", "choices": [" minus", " 3", "加"], "answer": n % 3} for n in range(4)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "tasks").mkdir()
    for name, told in TASKS.items():
        (tmp_path / f"tasks/{name}.yaml").write_text(told.format(file=file), encoding="utf-8")
    words = [sys.executable, "-m", "gorae.recipes.harness", "--model", "gorae", "--model_args", f"path={folder}"]
    words += ["--tasks", ",".join(TASKS), "--include_path", str(tmp_path / "tasks")]
    words += ["--output_path", str(tmp_path / "out")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(words, env=os.environ | offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (kept,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(kept.read_text(encoding="utf-8"))["results"]

    model = HarnessModel(str(folder))
    best = 0
    for row in rows:
        scores = model.loglikelihood([asked(row["question"], choice) for choice in row["choices"]])
        best += max(range(3), key=lambda place: scores[place][0]) == row["answer"]
    assert results["choices"]["acc,none"] == best / len(rows)
    log_probs = sum(model.loglikelihood_rolling([asked(row["question"]) for row in rows]))
    num_words = sum(len(row["question"].split()) for row in rows)
    assert results["perplexity"]["word_perplexity,none"] == pytest.approx(math.exp(-log_probs / num_words))
    assert 0 <= results["written"]["exact_match,none"] <= 1
