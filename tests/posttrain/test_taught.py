"""Distillation from logits: what the teacher's head makes of kept features is what the teacher said."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from gorae.kernels import log_softmax
from gorae.model import Network
from gorae.posttrain import (
    Example,
    FeatureCache,
    TaughtBatch,
    forward_kl,
    logit_loss,
    require_same_tokens,
    taught_batches,
    teacher_features,
)
from gorae.posttrain import taught as module
from gorae.posttrain.sft import training_row
from gorae.text import Tokenizer
from gorae.train import pad_batch


@pytest.fixture
def teacher(config) -> Network:
    return Network(replace(config, model_dim=20), seed=7).eval().requires_grad_(False)


@pytest.fixture
def examples(prompts) -> list[Example]:
    return [
        Example(prompt, [3 + (place * 7 + n) % 60 for n in range(1 + place)]) for place, prompt in enumerate(prompts)
    ]


def batch_of(teacher: Network, examples: list[Example]) -> TaughtBatch:
    rows = pad_batch([training_row(one.prompt_ids, one.reply_ids) for one in examples], 0)
    return TaughtBatch(rows.token_ids_BT, rows.weights_BT, teacher_features(teacher, rows))


@pytest.fixture
def cache(tmp_path, teacher, examples, monkeypatch) -> FeatureCache:
    """Two examples a file."""
    monkeypatch.setattr(module, "BLOCK", 2)
    cache = FeatureCache(tmp_path, examples)
    for block in cache.missing():
        rows = cache.rows(block)
        features = batch_of(teacher, rows).features_NX.split([len(one.reply_ids) for one in rows])
        cache.write(block, features, flops=10.0 + block)
    return cache


def test_kept_features_give_the_teachers_own_logits_bit_for_bit(cache, teacher, examples):
    for place, one in enumerate(examples):
        row = torch.tensor([one.prompt_ids + one.reply_ids])
        said_TW = teacher.logits(teacher(row).hidden_BTD[0, len(one.prompt_ids) - 1 : -1])
        assert torch.equal(teacher.logits(cache.read(place)), said_TW)


def test_the_cache_holds_as_many_numbers_a_token_as_the_teacher_is_wide_and_no_logits(cache, teacher, examples):
    with safe_open(cache.path(0), framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert shapes == {str(place): (len(examples[place].reply_ids), 20) for place in (0, 1)}
    assert cache.read(0).dtype == torch.float32
    assert cache.flops == 10 + 11 + 12


def test_a_cache_that_was_begun_goes_on_and_one_of_other_examples_is_refused(cache, tmp_path, examples):
    assert FeatureCache(tmp_path, examples).missing() == []
    cache.path(1).unlink()
    assert FeatureCache(tmp_path, examples).missing() == [1]
    with pytest.raises(ValueError, match=r"features-000000\.safetensors is of other examples; remove .* to begin anew"):
        FeatureCache(tmp_path, examples[1:])


def test_batches_bring_each_token_its_own_features(cache, teacher, examples):
    batches = taught_batches(cache, batch_size=4, seed=0, pad_id=0)
    for step in range(3):
        batch = batches(step)
        again = teacher_features(teacher, batch)
        assert torch.equal(batch.features_NX, again)


def test_the_loss_is_the_mean_divergence_of_the_replies_tokens(model, teacher, examples):
    batch = batch_of(teacher, examples)
    lost = []
    for one in examples:
        row = torch.tensor([one.prompt_ids + one.reply_ids])
        sides = [
            log_softmax(n.logits(n(row).hidden_BTD[0, len(one.prompt_ids) - 1 : -1])) for n in (model.network, teacher)
        ]
        lost += forward_kl(sides[0].double(), sides[1].double()).tolist()
    loss = logit_loss(model.network, batch, teacher=teacher)
    assert loss.total.item() == pytest.approx(sum(lost) / len(lost), rel=1e-5)
    assert loss.figures == {"loss": loss.total.item()}
    assert 0 < logit_loss(model.network, batch, teacher=teacher, top_k=3).total.item() < loss.total.item()


def test_a_student_that_is_its_teacher_has_nothing_to_learn(model, examples):
    loss = logit_loss(model.network, batch_of(model.network, examples), teacher=model.network)
    loss.total.backward()
    assert loss.total.item() == 0
    assert max(p.grad.abs().max().item() for p in model.network.parameters() if p.grad is not None) < 1e-6


def test_chunks_change_no_bit_of_the_loss(model, teacher, examples, monkeypatch):
    batch = batch_of(teacher, examples)
    whole = logit_loss(model.network, batch, teacher=teacher).total
    monkeypatch.setattr("gorae.posttrain.divergence.in_chunks.__kwdefaults__", {"most": 5 * 67})
    parts = logit_loss(model.network, batch, teacher=teacher).total
    assert parts.item() == whole.item()
    gradients = [torch.autograd.grad(total, model.network.embedding_WD)[0] for total in (whole, parts)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)  # chunks add up the head's gradient in another order


def test_padding_behind_the_teachers_vocabulary_is_left_out(model, config, examples):
    wide = Network(replace(config, vocab_size=80), seed=3).requires_grad_(False)
    batch = batch_of(wide, examples)
    whole = logit_loss(model.network, batch, teacher=wide).total.item()
    wide.head_WD[67:] = 100.0
    assert logit_loss(model.network, batch, teacher=wide).total.item() == whole


def test_the_first_token_that_differs_is_named():
    def trained(text: str, vocab_size: int = 300) -> Tokenizer:
        return Tokenizer.train([text] * 9, vocab_size=vocab_size)

    one = trained("plus minus 0123456789")
    require_same_tokens(one, trained("plus minus 0123456789"))
    with pytest.raises(ValueError, match=r"token 2\d\d is '.+' to the teacher and '.+' to the student, .*traces"):
        require_same_tokens(one, trained("whale and shark 0123456789"))
    with pytest.raises(ValueError, match=r"token 266 is '.+' to the teacher and 'nothing' to the student"):
        require_same_tokens(one, trained("plus minus 0123456789", vocab_size=266))
