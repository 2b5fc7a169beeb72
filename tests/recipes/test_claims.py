"""When a claim is held, and what the table says of it. The runs themselves are in tests/journey."""

import pytest

from gorae.recipes.claims import CLAIMS, Claim, claims_table

MODELS = {model for claim in CLAIMS for model in (claim.above, claim.below)}


def summary(share: float, *, margin: float = 0.03, **others: float) -> dict:
    least = {"majority_at_16": share, "mean_length": 40.0, "consistency": 0.5}
    return {"pass_at_1": share, "ci95": [share - margin, share + margin], **least, **others}


@pytest.mark.parametrize(
    ("above", "below", "is_denied", "holds"),
    [
        (summary(0.6), summary(0.5), False, True),
        (summary(0.55), summary(0.5), False, False),  # the intervals touch
        (summary(0.6, margin=0.2), summary(0.5), False, False),
        (summary(0.4), summary(0.5), False, False),
        (summary(0.6), summary(0.5), True, False),
        (summary(0.55), summary(0.5), True, True),
        (summary(0.1), summary(0.5), True, True),
    ],
)
def test_a_claim_on_pass_at_1_holds_where_intervals_are_apart(above, below, is_denied, holds):
    claim = Claim("it helps", "nowhere", above="with", below="without", is_denied=is_denied)
    assert claim.holds({"with": above, "without": below}) == holds


def test_a_figure_without_interval_is_compared_as_it_is():
    claim = Claim("it grows", "nowhere", above="after", below="before", figure="mean_length")
    before, after = summary(0.5), summary(0.5, mean_length=40.1)
    assert claim.holds({"before": before, "after": after})
    assert not claim.holds({"before": before, "after": before})


def test_a_majority_is_compared_with_the_model_s_own_single_reply():
    claim = next(claim for claim in CLAIMS if claim.figure == "majority")
    assert claim.holds({"rl": summary(0.7, majority_at_16=0.8)})
    assert not claim.holds({"rl": summary(0.7, majority_at_16=0.72)}), "the single reply has an interval"


def test_the_table_has_the_median_the_range_and_how_many_seeds_held():
    seeds = [{name: summary(0.5) for name in MODELS} for _ in range(3)]
    for seed, share in zip(seeds, (0.9, 0.52, 0.7), strict=True):
        seed["rl"] = summary(share)
    heading, *rows = claims_table(seeds)
    assert len(rows) == len(CLAIMS)
    row = dict(zip(heading, rows[0], strict=True))
    assert row["from"] == "base 50.0% (50.0–50.0)"
    assert row["to"] == "rl 70.0% (52.0–90.0)"
    assert row["held in"] == "2 of 3"


def test_no_claim_is_told_twice_and_each_names_where_it_is_from():
    assert len({claim.told for claim in CLAIMS}) == len(CLAIMS)
    assert all(claim.published for claim in CLAIMS)
