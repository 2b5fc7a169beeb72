"""Overlong shaping (DAPO, arXiv 2503.14476, eq. 13): a reply that comes near the length limit loses reward softly."""


def shape_overlong(reward: float | None, length: int, *, max_tokens: int, soft_tokens: int) -> float | None:
    """The reward, less a share that grows from 0 to 1 over the last `soft_tokens` of the `max_tokens` a reply may have.

    A reply without a reward stays without. The paper's rewards are 1 and -1, its limits 20480 and 4096. Raises
    ValueError unless the soft part fits into the whole.
    """
    if not 0 < soft_tokens <= max_tokens:
        raise ValueError(f"soft_tokens={soft_tokens} must be at least 1 and at most max_tokens={max_tokens}")
    excess = length - (max_tokens - soft_tokens)
    return None if reward is None else reward - min(max(excess / soft_tokens, 0.0), 1.0)
