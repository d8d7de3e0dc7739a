"""Arms over seeds: figures by hand, and a claim that noise alone would not carry."""

import pytest

from vxlpro_jax.eval.arms import Claim, spread, summarise, to_markdown

RUNS = {
    "old": [{"right": 0.5, "rank": 0.2}, {"right": 0.7, "rank": 0.2}],
    "new": [{"right": 0.6, "rank": 0.1}, {"right": 0.9, "rank": 0.4}],
}


def test_spread_is_mean_and_sample_deviation():
    assert spread([1.0, 3.0]) == {"mean": 2.0, "deviation": pytest.approx(2**0.5), "values": [1.0, 3.0]}
    assert spread([1.0])["deviation"] is None


def test_claims_are_judged_on_paired_differences():
    claims = [Claim("new", "old", "right", 2.0), Claim("new", "old", "right", 4.0), Claim("new", "old", "rank", 2.0)]
    clear, unclear, noise = summarise(RUNS, ("right", "rank"), claims)["claims"]
    # differences .1 and .2: mean .15, standard error .05
    assert clear["difference"]["mean"] == pytest.approx(0.15) and clear["standard_error"] == pytest.approx(0.05)
    assert (clear["holds"], unclear["holds"], noise["holds"]) == (True, False, False)


def test_one_seed_has_no_error_and_an_equal_mark_is_not_above():
    runs = {arm: found[:1] for arm, found in RUNS.items()}
    result = summarise(runs, ("right",), [Claim("new", "old", "right", 0.0)])
    (claim,) = result["claims"]
    assert claim["difference"]["mean"] > 0 and claim["standard_error"] is None and not claim["holds"]
    assert "new above old: +0.100, does NOT hold (one seed shows nothing)" in to_markdown(result, ("right",))
    (equal,) = summarise(RUNS, ("right",), [Claim("old", "old", "right", 0.0)])["claims"]
    assert not equal["holds"]


def test_the_table_has_a_row_per_arm_and_says_what_holds():
    result = summarise(RUNS, ("right",), [Claim("new", "old", "right", 2.0), Claim("old", "new", "right", 2.0)])
    table = to_markdown(result, ("right",))
    assert "| new | 0.750 ± 0.212 |" in table
    assert "new above old: +0.150 ± 0.071, holds" in table and "old above new: -0.150 ± 0.071, does NOT hold" in table
