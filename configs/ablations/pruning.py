"""Table 7 at tiny size: fine-tuning on N random videos, on 2N random ones, and on the N that pruning keeps.

python -m launch.prune_ablation --config=configs/ablations/pruning.py --workdir=runs/ablations/pruning
Source: paper 4.8, Table 7 (100k and 200k random samples, 100k pruned ones; one epoch each); docs/pruning.md.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 2_000_000_000  # of the bank of videos; the held-out ones are of seed + 1
    config.seeds = (1, 2, 3)  # each draws its own pool, subsets and order
    config.num_videos = 150  # N
    # Each seed draws 3N of these; half of them are redundant. What share of real data is, nobody has published.
    config.bank = ConfigDict({"busy": 450, "still": 225, "slow": 225})
    config.pool_videos = 450
    config.heldout = ConfigDict({"standard": 60, "busy": 30})
    config.batch_size = 16
    config.stage = base.get_config().stage
    config.optimizer = base.get_config().optimizer
    with config.unlocked():
        config.stage.loss = "answers"
        config.stage.trainable = ("projector", "selector", "llm")
        config.optimizer.peak_rate = 5e-4
        config.optimizer.warmup_steps = 10
        config.optimizer.weight_decay = 0.0
    return config.lock()
