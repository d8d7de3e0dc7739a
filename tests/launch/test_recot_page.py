"""The page says what was found, and a claim that does not hold is told so."""

import copy

import numpy as np

from launch.recot_page import claims_of, draw_masks, draw_runs, page_of
from vxlpro_jax.data.synthetic_foreground import foreground_clips

RESULT = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "number": 100}
RUN = {
    "seed": 0,
    "train_clips": 10,
    "heldout_clips": 5,
    "error": {"whole": 0.05, "hidden": 0.5},
    "error_before": {"whole": 0.06, "hidden": 0.8},
    "baselines": {"mean_of_frames": 0.3, "first_frame": 0.7, "pca": 0.06},
    "decoder_share": 0.51,
    "probes": {name: RESULT for name in ("kind", "glyph", "colour", "direction")},
    "order": {
        "chance": 0.25,
        "forward": RESULT,
        "reversed": RESULT,
        "cosine_shuffled": 0.9,
        "cosine_reversed": 0.8,
        "cosine_shuffled_movers": 0.7,
    },
    "foreground": {"masked": 0.2, "masked_at_random": 0.3, "all_tokens": 0.3},
    "query_gradients": {"temp_query": 0.1, "spatio_query": 0.2},
}
RANDOM = {**RUN, "query_gradients": {}, "foreground": {"masked": 0.3, "masked_at_random": 0.3, "all_tokens": 0.3}}


def holds(change=None):
    arms = copy.deepcopy({"semantic": [RUN, {**RUN, "seed": 1}], "random": [RANDOM]})
    if change:
        change(arms["semantic"][1])
    return [claim["holds"] for claim in claims_of(arms)]


def test_every_claim_can_fail_and_only_that_one_does():
    changes = [
        lambda run: run["error"].update(whole=0.061),
        lambda run: run["order"].update(reversed={**RESULT, "low": 0.24}),
        lambda run: run["order"].update(cosine_shuffled=0.9995),
        lambda run: run.update(decoder_share=0.53),
        lambda run: run["foreground"].update(masked=0.31),
        lambda run: run["query_gradients"].update(spatio_query=0.0),
    ]
    assert holds() == [True] * len(changes)
    for number, change in enumerate(changes):
        assert holds(change) == [place != number for place in range(len(changes))]


def test_a_masker_without_one_of_its_queries_does_not_pass():
    assert holds(lambda run: run["query_gradients"].pop("temp_query"))[-1] is False


def test_the_page_holds_means_with_their_range_and_the_pictures_are_written(tmp_path):
    arms = {"semantic": [RUN, {**RUN, "seed": 1, "error": {"whole": 0.07, "hidden": 0.5}}], "random": [RANDOM]}
    found = {"clip_frames": 4, "steps": 3, "batch_size": 2, "arms": arms, "tower_probes": RUN["probes"]}
    found["claims"] = claims_of(arms)
    page = page_of(found)
    assert "| error, whole clips | 0.06 (0.05 to 0.07) | 0.05 (0.05 to 0.05) |" in page
    assert "**no**" in page and "| the same, PCA | 0.06 (0.06 to 0.06) |" in page
    for name in arms:
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "eval_whole": 1.0}\n')
    draw_runs(found, {name: tmp_path / name for name in arms}, tmp_path / "runs.png")
    known = foreground_clips(0, 6, 4, 56, 4)
    parts = {"masked": np.zeros((6, 4, 16), bool), "scores": np.random.default_rng(0).normal(size=(6, 4, 16))}
    draw_masks(known, parts, tmp_path / "masks.png")
    assert min((tmp_path / name).stat().st_size for name in ("runs.png", "masks.png")) > 2000
