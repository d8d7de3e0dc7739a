"""Figure 7 at tiny size: right answers of the embedded model against the share of a video that the selector keeps.

python -m launch.evaluate --config=configs/eval/keep_rate.py
Source: paper 4.8, Figure 7 (half of the tokens without loss, a tenth with considerable accuracy); docs/ablations.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.benchmark = "keep_rates"
    config.model = ""  # embedded
    config.seeds = (71, 72, 73)  # of the videos; below 1,000,000,000, for those above were trained on
    config.num_videos = 35  # of each length and seed
    config.kinds = ("shape", "colour", "digit", "direction", "when", "first")
    config.size = (112, 112)
    config.fps = 1.0
    config.max_new_tokens = 24  # so that 64 s fit the context whole
    # kept_groups: a budget of that many groups with their stamps, out of length_s / 4.
    config.lengths = ConfigDict(
        {
            "fits": {"length_s": 64, "kept_groups": (16, 12, 8, 4, 2, 1)},
            "long": {"length_s": 256, "kept_groups": (16, 6, 3, 1)},  # 16: the most that the model was trained to read
        }
    )
    # Set before the first run. at: groups; above: by how much at least, on average over the seeds.
    half = {"length": "fits", "better": "selector", "at": 8, "worse": "selector", "than_at": 16, "above": -0.02}
    eighth = {"length": "fits", "better": "selector", "at": 2, "than_at": 2}
    tenth = {"length": "long", "better": "selector", "at": 6, "than_at": 6}
    config.claims = ConfigDict(
        {
            "half_loses_at_most_two_points": half,
            "an_eighth_beats_random_groups": {**eighth, "worse": "random groups", "above": 0.2},
            "an_eighth_beats_fewer_frames": {**eighth, "worse": "fewer frames", "above": 0.05},
            "a_tenth_of_long_beats_random_groups": {**tenth, "worse": "random groups", "above": 0.2},
            "a_tenth_of_long_beats_fewer_frames": {**tenth, "worse": "fewer frames", "above": 0.05},
        }
    )
    return config.lock()
