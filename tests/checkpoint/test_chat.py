"""From a checkpoint as transformers writes it to a reply in `gorae chat` and from `gorae.Engine`, by folder and by id.

The shapes are those people bring: R1's distilled models, V2-Lite, and an instruct model of Qwen's with two ends and no
begin. Layers are random; the head is not: after each token of a script comes the next, so that a reply can be foretold.
"""

import io
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

import gorae
from gorae.cli import main
from gorae.text import PLAIN, R1, Message

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
DEEPSEEK = (BOS, EOS, "<｜User｜>", "<｜Assistant｜>")
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

# What DeepSeek's own template does, in our words.
R1_TEMPLATE = """{{ bos_token }}
{%- for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}
{%- for m in messages %}
{%- set follows = loop.previtem.role if loop.previtem else '' %}
{%- if m.role == 'user' %}{{ '<｜User｜>' + m.content }}
{%- elif m.role == 'assistant' %}
{{- '<｜Assistant｜>' if follows != 'tool' else '' }}{{ (m.content or '').split('</think>')[-1] }}
{%- for c in m.tool_calls or [] %}
{{- '<｜tool▁calls▁begin｜>' if loop.first else '\\n' }}
{{- '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' + c.function.name }}
{{- '\\n```json\\n' + c.function.arguments + '\\n```<｜tool▁call▁end｜>' }}
{{- '<｜tool▁calls▁end｜>' if loop.last else '' }}
{%- endfor %}{{ '<｜end▁of▁sentence｜>' }}
{%- elif m.role == 'tool' %}
{{- '\\n' if follows == 'tool' else '<｜tool▁outputs▁begin｜>' }}
{{- '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}
{{- '<｜tool▁outputs▁end｜>' if loop.last or loop.nextitem.role != 'tool' else '' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt and messages[-1].role == 'user' %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"""
V2_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ 'User: ' + m.content + '\n\n' }}"
    "{% else %}{{ 'Assistant: ' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DENSE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
V2_LITE = DENSE | {
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "kv_lora_rank": 32,
    "q_lora_rank": None,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 0.707}

# config · special tokens, template and script · what chat prints of it, and the end that generation_config.json adds
SHAPES = {
    "r1-distill-qwen": (
        transformers.Qwen2Config(**DENSE),
        (DEEPSEEK, R1_TEMPLATE, ("\n", "3", "+", "4", "</think>", "7", EOS)),
        ("3+4\n\n7", None),
    ),
    "r1-distill-llama": (
        transformers.LlamaConfig(**DENSE, rope_parameters=LLAMA3 | {"original_max_position_embeddings": 8192}),
        (DEEPSEEK, R1_TEMPLATE, ("\n", "3", "+", "4", "</think>", "7", EOS)),
        ("3+4\n\n7", None),
    ),
    "v2-lite-chat": (
        transformers.DeepseekV2Config(**V2_LITE, rope_parameters=YARN | {"original_max_position_embeddings": 4096}),
        (DEEPSEEK, V2_TEMPLATE, (":", "3", "+", "4", "=", "7", EOS)),
        ("3+4=7", None),
    ),
    "qwen-instruct": (
        transformers.Qwen2Config(**DENSE),
        (QWEN, QWEN_TEMPLATE, ("\n", "3", "+", "4", "=", "7", "<|endoftext|>")),
        ("3+4=7", "<|endoftext|>"),
    ),
}

OTHERS = sorted(set(SHAPES) - {"r1-distill-llama"})

pytestmark = pytest.mark.usefixtures("quiet")


def tokenizer_of(special: tuple[str, ...], template: str) -> transformers.PreTrainedTokenizerFast:
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    library.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(special_tokens=list(special), initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator(["What is it? 고래 鲸鱼", "User Assistant user assistant"], trainer)
    library.add_tokens([tokenizers.AddedToken(tag, special=False, normalized=False) for tag in ("<think>", "</think>")])
    is_qwen = special == QWEN
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=library,
        bos_token=None if is_qwen else BOS,
        eos_token="<|im_end|>" if is_qwen else EOS,
        pad_token="<|endoftext|>" if is_qwen else EOS,
        chat_template=template,
    )


@torch.no_grad()
def published(folder: Path, shape: str) -> Path:
    """Write a checkpoint of the shape in bfloat16, whose reply to anything is its script."""
    config, (special, template, script), (_, further_end) = SHAPES[shape]
    tokenizer = tokenizer_of(special, template)
    config = type(config).from_dict(config.to_dict())
    config.update({"vocab_size": len(tokenizer), "max_position_embeddings": 256, "tie_word_embeddings": False})
    config.update({"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id})
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(config)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(std=0.02)
    embedding = network.get_input_embeddings().weight
    embedding.copy_(torch.randn(embedding.shape))  # so large that the layers change little
    ids = tokenizer.convert_tokens_to_ids([tokenizer.tokenize(piece)[0] for piece in script])
    for before, after in pairwise(ids):
        direction = embedding[before] / embedding[before].norm()
        network.get_output_embeddings().weight[after] = 10 * direction
    if further_end:
        ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(further_end)]
        network.generation_config.eos_token_id = ends
    network.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=SHAPES)
def checkpoint(request, tmp_path) -> tuple[str, Path]:
    return request.param, published(tmp_path / request.param, request.param)


def test_the_engine_continues_a_chat_as_the_script_and_transformers_say(checkpoint):
    shape, folder = checkpoint
    model = gorae.load(folder)
    tokenizer = model.tokenizer
    assert tokenizer is not None
    prompt = tokenizer.encode_prompt([Message("user", "What is 3 + 4? 고래")])
    is_r1 = shape.startswith("r1")
    assert (tokenizer.chat_format, prompt.mode) == ((R1, "think") if is_r1 else (PLAIN, "direct"))
    judge = transformers.AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": "What is 3 + 4? 고래"}]
    assert judge.apply_chat_template(turns, add_generation_prompt=True, return_dict=False) == prompt.ids
    (output,) = gorae.Engine(model).generate([prompt.ids], gorae.SamplingParams(max_tokens=20, temperature=0.0))
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generated = network.generate(torch.tensor([prompt.ids]), max_new_tokens=20, do_sample=False)[0]
    assert output.token_ids == generated[len(prompt.ids) :].tolist()
    assert output.finish_reason == "stop"
    assert output.text == "".join(SHAPES[shape][1][2][1:-1])


def test_a_text_begins_as_the_checkpoints_texts_do(checkpoint):
    shape, folder = checkpoint
    (output,) = gorae.Engine(gorae.load(folder)).generate(["What"], gorae.SamplingParams(max_tokens=1))
    first = gorae.load(folder).tokenizer.encode("What")
    assert output.prompt_token_ids == (first if shape == "qwen-instruct" else [0, *first])


def test_chat_answers_every_line_from_a_folder(checkpoint, monkeypatch, capsys):
    shape, folder = checkpoint
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is 3 + 4?\n\n고래?\n"))
    assert main(["chat", "--model", str(folder)]) == 0
    reply = SHAPES[shape][2][0]
    assert capsys.readouterr().out == f"> {reply}\n> > {reply}\n> \n"


def test_a_reply_that_fills_the_models_positions_is_said_to_be_cut_off(tmp_path, capsys):
    folder = published(tmp_path, "r1-distill-qwen")
    assert main(["chat", "--model", str(folder), "1" * 249]) == 0  # 249 digits and 5 tokens of the template
    assert capsys.readouterr().out == "3+\n(cut off: question and reply fill all the model's positions)\n"


def test_thinking_is_asked_for_where_the_template_leaves_the_choice(checkpoint, capsys):
    shape, folder = checkpoint
    assert main(["chat", "--model", str(folder), "--think", "What?"]) == (0 if shape.startswith("r1") else 2)
    told = capsys.readouterr()
    assert (
        shape.startswith("r1") or "this model can not be made to think: its chat template has no thinking" in told.err
    )


ELSEWHERE = """
import sys
import gorae
from gorae.cli import main
name = sys.argv[1]
model = gorae.load(name)
print(gorae.Engine(model).generate(["What is 3"], gorae.SamplingParams(max_tokens=8, temperature=0.0))[0].token_ids)
sys.exit(main(["chat", "--model", name, "What is 3 + 4?"]))
"""


@pytest.mark.parametrize("shape", ["r1-distill-llama", *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)])
def test_an_id_answers_as_its_folder_does(shape, serve_hub, tmp_path):
    folder = published(tmp_path / shape, shape)
    with serve_hub(folder, "gorae/tiny") as (address, asked):
        own = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-c", ELSEWHERE, "gorae/tiny@v1"]
        environment = os.environ | own | {"HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    params = gorae.SamplingParams(max_tokens=8, temperature=0.0)
    here = gorae.Engine(gorae.load(folder)).generate(["What is 3"], params)[0].token_ids
    assert done.stdout == f"{here}\n{SHAPES[shape][2][0]}\n"
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= set(asked)


GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "chat_formats.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", [one for one in GOLDEN["prompts"] if one["format"] == "deepseek-r1"])
def test_the_template_of_these_checkpoints_writes_what_deepseeks_own_wrote(case):
    if case["conversation"] == "rounds":
        pytest.skip("DeepSeek's errs in a second round of calls; see docs/chat_formats.md")
    tokenizer = tokenizer_of(DEEPSEEK, R1_TEMPLATE)
    turns = GOLDEN["conversations"][case["conversation"]]
    assert tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False) == case["prompt"]
