"""Divergences against values by hand, in float64."""

from math import exp, log

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gorae.posttrain.divergence import bucketed, forward_kl, in_chunks, reverse_kl, sampled_reverse_kl, top_k_kl

STUDENT, TEACHER = (0.5, 0.25, 0.125, 0.125), (0.2, 0.5, 0.05, 0.25)


def log_probs(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_both_directions_have_the_values_of_a_calculation_by_hand():
    student, teacher = log_probs(STUDENT), log_probs(TEACHER)
    forward = sum(t * log(t / s) for s, t in zip(STUDENT, TEACHER, strict=True))
    reverse = sum(s * log(s / t) for s, t in zip(STUDENT, TEACHER, strict=True))
    assert forward_kl(student, teacher).item() == pytest.approx(forward, rel=1e-14)
    assert reverse_kl(student, teacher).item() == pytest.approx(reverse, rel=1e-14)
    assert forward == pytest.approx(0.2907, abs=1e-4)
    assert reverse == pytest.approx(0.3128, abs=1e-4)


def test_the_gradient_by_the_logits_is_what_the_books_say():
    """Forward: p_student - p_teacher. Reverse: p_student (log p_student - log p_teacher - KL)."""
    logits, teacher = drawn(5, 7).requires_grad_(), drawn(5, 7, seed=1).log_softmax(-1)
    student = logits.log_softmax(-1)
    (forward,) = torch.autograd.grad(forward_kl(student, teacher).sum(), logits, retain_graph=True)
    (reverse,) = torch.autograd.grad(reverse_kl(student, teacher).sum(), logits)
    student = student.detach()
    torch.testing.assert_close(forward, student.exp() - teacher.exp(), rtol=1e-12, atol=1e-14)
    apart = student - teacher - reverse_kl(student, teacher)[:, None]
    torch.testing.assert_close(reverse, student.exp() * apart, rtol=1e-12, atol=1e-14)


def test_the_teachers_top_and_one_bucket_have_the_value_of_a_calculation_by_hand():
    student, teacher = log_probs(STUDENT), log_probs(TEACHER)
    by_hand = 0.5 * log(0.5 / 0.25) + 0.25 * log(0.25 / 0.125) + 0.25 * log(0.25 / 0.625)
    assert top_k_kl(student, teacher, top_k=2).item() == pytest.approx(by_hand, rel=1e-14)
    probabilities = bucketed(student, torch.tensor([[1, 3]])).exp()
    assert probabilities.tolist()[0] == pytest.approx([0.25, 0.125, 0.625], rel=1e-14)


def test_a_bucket_never_says_more_than_the_whole_vocabulary_and_more_of_the_top_says_more():
    student, teacher = drawn(50, 9).log_softmax(-1), drawn(50, 9, seed=1).log_softmax(-1)
    by_k = torch.stack([top_k_kl(student, teacher, top_k=k) for k in range(1, 10)])
    assert (by_k >= 0).all()
    assert (by_k.diff(dim=0) >= -1e-14).all()
    torch.testing.assert_close(by_k[-1], forward_kl(student, teacher), rtol=0, atol=0)
    torch.testing.assert_close(by_k[-2], forward_kl(student, teacher), rtol=1e-12, atol=1e-14)  # a bucket of one


def test_a_student_that_gives_the_others_half_of_everything_is_told_so():
    """Renormalised to the top, teacher and student would be the same, and nothing would be lost."""
    teacher, student = log_probs((0.6, 0.4 - 1e-9, 1e-9)), log_probs((0.3, 0.2, 0.5))
    assert top_k_kl(student, teacher, top_k=2).item() == pytest.approx(log(2), rel=1e-6)


def test_the_tail_of_a_teacher_that_is_certain_is_no_nan():
    teacher = drawn(1, 8).mul(0).index_fill(1, torch.tensor([3]), 2000.0).log_softmax(-1)
    student = drawn(1, 8).log_softmax(-1).requires_grad_()
    lost = top_k_kl(student, teacher, top_k=2)
    lost.sum().backward()
    assert lost.item() == pytest.approx(-student[0, 3].item(), rel=1e-12)
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_the_sampled_form_has_the_value_and_the_gradient_of_the_whole_on_average_and_more_variance():
    """Every token of a vocabulary of 7, weighed with the chance that it is drawn."""
    logits, teacher = drawn(1, 7).requires_grad_(), drawn(1, 7, seed=1).log_softmax(-1)
    student = logits.log_softmax(-1)
    (whole,) = torch.autograd.grad(reverse_kl(student, teacher).sum(), logits, retain_graph=True)
    values, gradients = [], []
    for token in range(7):
        lost = sampled_reverse_kl(student[:, token], student[:, token].detach(), teacher[:, token])
        values.append(lost.item())
        gradients.append(torch.autograd.grad(lost.sum(), logits, retain_graph=True)[0])
    chances = student.detach().exp()[0]
    expected = sum(chance * gradient for chance, gradient in zip(chances, gradients, strict=True))
    assert sum(c * v for c, v in zip(chances.tolist(), values, strict=True)) == pytest.approx(
        reverse_kl(student, teacher).item(), rel=1e-12
    )
    torch.testing.assert_close(expected, whole, rtol=1e-12, atol=1e-14)
    variance = sum(c * (g - whole).square().sum() for c, g in zip(chances, gradients, strict=True))
    assert variance > whole.square().sum(), "of the whole it is 0: every token is in it already"


def test_the_sampled_form_weighs_a_token_by_how_much_likelier_it_has_become():
    now, sampled, teacher = log_probs((0.4,), (0.1,), (0.2,))[:, 0].unbind()
    assert sampled_reverse_kl(now, sampled, teacher).item() == pytest.approx(4 * log(2), rel=1e-14)
    assert exp(now - sampled) == pytest.approx(4)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that anything makes."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            self.numbers = max(self.numbers, one.numel() if isinstance(one, torch.Tensor) else 0)
        return made


def test_chunks_have_the_values_and_gradients_of_the_whole_and_never_a_larger_table():
    hidden, other = drawn(23, 4).requires_grad_(), drawn(23, 4, seed=1)
    head = drawn(50, 4, seed=2).requires_grad_()

    def measure(hidden, other):
        return forward_kl((hidden @ head.T).log_softmax(-1), (other @ head.detach().T).log_softmax(-1))

    def run(most):
        kept = []
        keep = torch.autograd.graph.saved_tensors_hooks(lambda one: (kept.append(one.shape), one)[1], lambda one: one)
        with keep, Largest() as largest:
            lost = in_chunks(measure, hidden, other, vocab_size=50, most=most)
            is_kept = any(shape[-1] == 50 for shape in kept if shape[0] != 4)  # that is the head
            gradients = torch.autograd.grad(lost.sum(), (hidden, head))
        return lost.detach(), gradients, largest.numbers, is_kept

    whole, expected, all_at_once, is_kept = run(23 * 50)
    assert all_at_once >= 23 * 50
    assert is_kept
    for most, rows in ((250, 5), (50, 1), (7, 1)):
        parts, gradients, numbers, is_kept = run(most)
        assert numbers <= max(rows * 50, head.numel())
        assert not is_kept, "logits of a chunk wait for the gradient"
        torch.testing.assert_close(parts, whole, rtol=1e-14, atol=0)  # PyTorch's own products differ by rows
        torch.testing.assert_close(gradients, expected, rtol=1e-12, atol=1e-14)
