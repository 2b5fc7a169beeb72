"""Two ways of running a model, each of every kind: what is equal is told to be, what was planted is found."""

import json
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
import torch
import transformers
from starlette.responses import Response
from starlette.routing import Route

from gorae.checkpoint import convert, load, save_model
from gorae.engine import Engine
from gorae.model import Network
from gorae.recipes import run_parity
from gorae.server import create_api, serving
from gorae.text import Message, Tokenizer

TOKENS = 12


@pytest.fixture
def network(network) -> Network:
    """With weights large enough to prefer some tokens."""
    return Network(replace(network.config, init_std=0.15, rope_theta=1e4), seed=0)


@pytest.fixture
def folder(network, tokenizer, tmp_path):
    save_model(tmp_path / "model", network, tokenizer=tokenizer)
    return tmp_path / "model"


@pytest.fixture
def saved(network, tokenizer, tmp_path):
    """Changes of the config, and of the weights by a function → a folder with the network so changed."""

    def saved(change=lambda network: None, **changes):
        other = Network(replace(network.config, **changes))
        other.load_state_dict(network.state_dict())
        with torch.no_grad():
            change(other)
        save_model(tmp_path / "other", other, tokenizer=tokenizer)
        return tmp_path / "other"

    return saved


def report_of(sampler, trainer, **options):
    return run_parity(str(sampler), str(trainer), **{"num_tokens": TOKENS} | options)


def places(report) -> list[str]:
    return [one.part for one in report.layers.outstanding]


def flip_router(network: Network) -> None:
    network.blocks[1].feed_forward.bias_E.copy_(torch.tensor([2.0, -2.0] * 4))


def round_head(network: Network) -> None:
    network.head_WD.copy_(network.head_WD.bfloat16())


def test_a_model_beside_itself_is_exact_and_nothing_stands_out(folder):
    report = report_of(folder, f"{folder}:exact")
    assert report.mismatch.is_exact
    assert (report.mismatch.kl, report.mismatch.best, places(report)) == (0.0, "none", [])
    assert {one.size for one in report.layers.parts} == {0.0}
    assert (report.num_prompts, report.mismatch.num_sequences, report.layers.flipped) == (8, 32, 0)
    assert report.layers.decided > 100


def test_two_modes_differ_by_rounding_in_attention(folder):
    report = report_of(f"{folder}:fast", folder)
    assert 0 < report.mismatch.kl < 1e-4
    assert places(report) == ["layer 0 attention", "layer 1 attention"]


PLANTS = [
    ({"rope_theta": 100.0}, lambda network: None, "layer 0 attention"),
    ({}, flip_router, "layer 1 router"),
    ({}, round_head, "head"),
]


@pytest.mark.parametrize(("changes", "change", "place"), PLANTS, ids=["rope", "router", "head"])
@pytest.mark.parametrize("kind", ["", "transformers:"])
def test_a_planted_mismatch_is_found_and_its_layer_named(folder, saved, kind, changes, change, place):
    report = report_of(f"{kind}{folder}", saved(change, **changes))
    assert places(report)[0] == place
    assert report.mismatch.kl > 1e-8
    assert not report.mismatch.is_exact


def test_transformers_agrees_with_us_but_for_rounding_whoever_samples(folder):
    for sides in ((f"transformers:{folder}", folder), (folder, f"transformers:{folder}")):
        report = report_of(*sides)
        assert 0 < report.mismatch.max_difference < 1e-4
        assert places(report) == []
        assert report.mismatch.best == "none"
        assert max(one.size for one in report.layers.parts) < 1e-5


def test_transformers_beside_itself_says_the_same_of_its_own_replies(folder):
    report = report_of(f"transformers:{folder}", f"transformers:{folder}:float32")
    assert report.mismatch.max_difference < 1e-5, "with a cache and without"
    assert {one.size for one in report.layers.parts} == {0.0}


def test_transformers_in_bfloat16_is_rounded_everywhere_and_no_part_stands_out(folder):
    report = report_of(folder, f"transformers:{folder}:bfloat16")
    assert report.mismatch.kl > 1e-7
    assert places(report) == []


@pytest.mark.parametrize("kind", ["qwen2", "llama", "deepseek_v2"])
def test_other_architectures_of_transformers_are_looked_into_as_well(tmp_path, kind):
    torch.manual_seed(0)
    sizes = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 36, "initializer_range": 0.2, "num_key_value_heads": 2}
    experts = {"moe_intermediate_size": 12, "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1}
    experts |= {"q_lora_rank": None, "kv_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
    experts |= {"n_shared_experts": 1, "n_group": 1, "topk_group": 1}
    config = transformers.AutoConfig.for_model(kind, **sizes, **(experts if kind == "deepseek_v2" else {}))
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    report = report_of(tmp_path, f"transformers:{tmp_path}")
    assert report.mismatch.max_difference < 1e-4
    assert places(report) == []
    assert report.num_prompts == 8, "of random tokens, where there is no tokenizer"
    assert report.layers.decided == (kind == "deepseek_v2") * 4 * (16 + TOKENS)


def test_quantised_rollouts_are_far_off_and_a_correction_is_named(folder, tmp_path):
    convert(folder, tmp_path / "int4", "int4")
    report = report_of(tmp_path / "int4", folder, num_tokens=32)
    none, best = (report.mismatch.corrections[name] for name in ("none", report.mismatch.best))
    assert report.mismatch.kl > 1e-4
    assert best.error < none.error
    assert {"layer 0 attention", "layer 1 attention", "layer 1 experts", "head"} <= set(places(report))
    assert not [part for part in places(report) if part.endswith(("norm", "router"))], "which are not quantised"


def test_prompts_come_from_a_file_a_line_each(folder, tmp_path):
    (tmp_path / "prompts").write_text("1 plus 2\n\n3 더하기 4\n", encoding="utf-8")
    report = report_of(folder, folder, prompts=tmp_path / "prompts")
    assert (report.num_prompts, report.mismatch.num_sequences) == (2, 8)
    (tmp_path / "prompts").write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="prompts has no prompt; write one a line"):
        report_of(folder, folder, prompts=tmp_path / "prompts")


def test_what_can_not_be_compared_is_refused(folder, network, tmp_path):
    with pytest.raises(ValueError, match="both addresses, and nothing here has a tokenizer"):
        report_of("http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1")
    with pytest.raises(ValueError, match="2000 to sample exceed the 1024 positions"):
        report_of(folder, folder, num_tokens=2000)
    save_model(tmp_path / "bare", network)
    with pytest.raises(ValueError, match="bare has no tokenizer, without which"):
        report_of("http://127.0.0.1:9/v1", tmp_path / "bare")
    (tmp_path / "prompts").write_text("1", encoding="utf-8")
    with pytest.raises(ValueError, match="have no tokenizer to read"):
        report_of(tmp_path / "bare", tmp_path / "bare", prompts=tmp_path / "prompts")
    save_model(tmp_path / "foreign", network, tokenizer=Tokenizer.train(["abc"] * 9, vocab_size=280))
    with pytest.raises(ValueError, match="write prompts in different tokens"):
        report_of(folder, tmp_path / "foreign")


def test_layers_of_other_shapes_are_not_compared_and_the_report_says_so(folder, network, tokenizer, tmp_path):
    save_model(tmp_path / "deeper", Network(replace(network.config, num_layers=3), seed=1), tokenizer=tokenizer)
    report = report_of(folder, tmp_path / "deeper")
    assert report.layers is None
    assert "layer 2 attention norm makes nothing in one" in report.obstacle
    assert report.mismatch.kl > 0.01


def test_without_transformers_the_error_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="which is not installed; pip install 'transformers>=5'"):
        report_of(f"transformers:{folder}", folder)


# Addresses


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "two").write_text("1 plus 2\n3 minus 1\n")
    return tmp_path / "two"


@contextmanager
def served(folder, *, chats_alone: bool = False, refusal: int | None = None):
    model = load(folder)
    api = create_api(Engine(model), model.tokenizer, "whale", max_positions=1024)
    if chats_alone:  # as many servers
        routes = api.routes[0].routes
        routes[:] = [route for route in routes if route.path != "/completions"]
        if refusal is not None:  # llama-cpp-python's server has the route, and wants a text there
            refuse = Response("a string, please", status_code=refusal)
            routes.append(Route("/completions", lambda _: refuse, methods=["POST"]))
    with serving(api) as address:
        yield f"{address}/v1"


@pytest.mark.parametrize(("chats_alone", "refusal"), [(False, None), (True, None), (True, 422), (True, 500)])
def test_our_own_server_is_matched_token_by_token_and_exact(folder, prompts, chats_alone, refusal):
    """Where it takes chats alone its tokens come back as bytes, reasoning first."""
    with served(folder, chats_alone=chats_alone, refusal=refusal) as url:
        report = report_of(url, folder, prompts=prompts)
    assert report.mismatch.is_exact
    assert report.mismatch.num_sequences == 8
    assert report.obstacle == f"{url} shows no layers"


def test_our_own_server_scores_what_another_side_samples(folder, prompts):
    with served(folder) as url:
        assert report_of(folder, url, prompts=prompts).mismatch.is_exact


def test_a_server_of_other_weights_is_seen(folder, saved, prompts):
    with served(saved(rope_theta=100.0)) as url:
        assert report_of(url, folder, prompts=prompts).mismatch.kl > 1e-6


def test_a_server_that_can_not_echo_is_not_taken_for_a_trainer(folder):
    told = r"can not score given tokens .*make it the first side"
    with served(folder, chats_alone=True) as url, pytest.raises(ValueError, match=told):
        report_of(folder, url)


def test_a_server_with_another_template_is_refused(folder, monkeypatch):
    monkeypatch.setattr(Tokenizer, "encode_chat", lambda self, messages, **_: [5, *self.encode(messages[0].content)])
    told = "serve it with the same template"
    with served(folder, chats_alone=True) as url, pytest.raises(ValueError, match=told):
        report_of(url, folder)


class Fake:
    """An API with /completions that samples and scores by one of our networks, its answers in a given form."""

    def __init__(self, folder, form: str) -> None:
        self.model, self.form = load(folder), form
        self.asked: list[dict] = []

    def answer(self, path: str, body: dict | None) -> dict:
        if path == "/v1/models":
            return {"data": [{"id": "whale"}]}
        assert path == "/v1/completions"
        self.asked.append(body)
        ids, prompt = list(body["prompt"]), len(body["prompt"])
        while len(ids) < prompt + body["max_tokens"]:
            ids.append(int(self.model.logits(ids)[-1].argmax()))
        log_probs = self.model.logits(ids).log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
        shown, values = (ids, [None, *log_probs]) if body.get("echo") else (ids[prompt:], log_probs[prompt - 1 :])
        pieces = [self.model.tokenizer.piece(one) for one in shown]
        texts = [text for text, _ in pieces]
        if self.form == "llama.cpp":
            listed = zip(shown, texts, values, strict=True)
            content = [{"id": one, "token": text, "bytes": [], "logprob": value} for one, text, value in listed]
            return {"choices": [{"logprobs": {"content": content}}]}
        numbered = [f"token_id:{one}" for one in shown] if self.form == "numbered" else texts
        logprobs = {"tokens": numbered, "token_logprobs": values}
        return {"choices": [{"logprobs": logprobs} | ({"token_ids": shown} if self.form == "ids" else {})]}


@contextmanager
def faked(fake: Fake):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            data = json.dumps(fake.answer(self.path, body)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, format: str, *args) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}/v1", asked=fake.asked)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("form", ["ids", "numbered", "llama.cpp"])
def test_completions_are_token_in_and_token_out(folder, prompts, form):
    with faked(Fake(folder, form)) as server:
        report = report_of(server.url, folder, num_tokens=4, prompts=prompts, served_model="mine")
    assert report.mismatch.max_difference < 1e-5
    assert report.mismatch.num_tokens == 32
    first = server.asked[0]
    assert first["prompt"] == load(folder).tokenizer.encode_chat([Message("user", "1 plus 2")])
    assert (first["model"], first["temperature"], first["top_p"], first["logprobs"]) == ("mine", 1.0, 1.0, 1)


def test_an_api_that_echoes_log_probs_can_be_the_trainer(folder, prompts, saved):
    with faked(Fake(folder, "ids")) as server:
        report = report_of(folder, server.url, num_tokens=4, prompts=prompts)
        other = report_of(saved(round_head), server.url, num_tokens=4, prompts=prompts)
    assert report.mismatch.max_difference < 1e-5 < other.mismatch.max_difference
    assert server.asked[0]["echo"] is True
    assert server.asked[0]["max_tokens"] == 0


def test_a_token_that_is_none_of_ours_is_named(folder, prompts):
    fake = Fake(folder, "text")
    fake.model.tokenizer.piece = lambda token_id: ("grampus", None)
    with (
        faked(fake) as server,
        pytest.raises(ValueError, match=r"returned the token 'grampus', which is 0 tokens of the other side's"),
    ):
        report_of(server.url, folder, num_tokens=4, prompts=prompts)
