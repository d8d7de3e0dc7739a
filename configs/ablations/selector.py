"""What teaches the selector: the language loss as released, with a gate, or with a ranking loss beside it.

python -m launch.train --config=configs/tiny/selector_start.py --workdir=runs/tiny/selector_start
python -m launch.ablate --config=configs/ablations/selector.py --workdir=runs/tiny/selector
Source: paper 3.3 (the selector learns with the language loss); docs/selector.md.
"""

from ml_collections import ConfigDict

from configs.tiny import answers_mid


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.stage = answers_mid.get_config()
    with config.stage.unlocked():
        config.stage.init_from = "runs/tiny/selector_start"
        config.stage.parts = ConfigDict({"selector": "fresh"})
        config.stage.seed += 6000
        config.stage.stage.num_steps = 200
        config.stage.stage.ranking_weight = 0.0
        config.stage.stage.stamp_weight = 0.0
        config.stage.optimizer.peak_rate = 1e-3
        mix = {"num_groups": 16, "batch_size": 48, "when_share": 0.33, "guess_share": 0.0, "settled_guess": False}
        config.stage.rows = ConfigDict(
            {
                "train": {**mix, "length": 152, "weight": 1.0, "drop": 0.8},  # 152: all of 16 groups fit
                # Held-out marks alone: rows for the video, of 112 that it would need.
                "all": {**mix, "length": 152, "weight": 0.0, "drop": 0.0},
                "half": {**mix, "length": 96, "weight": 0.0, "drop": 0.0},
                "tenth": {**mix, "length": 52, "weight": 0.0, "drop": 0.0},
            }
        )
    config.arms = ConfigDict(
        {
            "released": {},
            "gate": {"switches": {"selector": {"score_use": "gate"}}},
            "ranking": {"stage": {"ranking_weight": 0.5}},
        }
    )
    config.seeds = (1, 2, 3, 4, 5)
    # ranked: share of (relevant, other) pairs of groups that the scores put in order; 0.5 is chance.
    config.marks = ("all_ranked", "all_all", "half_all", "tenth_all")
    config.claims = ConfigDict(
        {
            "ranking_orders": {"better": "ranking", "worse": "released", "mark": "all_ranked", "by": 2.0},
            "gate_orders": {"better": "gate", "worse": "released", "mark": "all_ranked", "by": 2.0},
            "ranking_keeps": {"better": "ranking", "worse": "released", "mark": "tenth_all", "by": 2.0},
        }
    )
    return config.lock()
