"""Leave redundant videos out of a data set: which annotations, how videos are scored, what each subset keeps.

python -m launch.prune --config=configs/prune.py --config.mixture=train.json --config.root=videos --workdir=DIR
Source: paper 3.3 (Video Dataset Pruning); docs/pruning.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.mixture = ""  # a LLaVA annotation file (JSON list or JSONL), or a YAML mixture of several (docs/data.md)
    config.root = ""  # folder that the videos' paths start from; empty: the file's own
    config.seed = 0  # of the records that a mixture takes by random:N
    # Where the vision tower comes from: a folder in the released layout, an Orbax folder or a hub id; empty: embedded.
    config.model = ""
    config.dtype = ""  # of the tower; empty: float32 on a CPU, bfloat16 elsewhere
    config.scoring = ConfigDict(
        {
            "num_frames": 20,  # paper 3.3
            # The paper does not say how a frame becomes one vector. "patches": patch by patch, which told slow from
            # still videos better (docs/pruning.md); "mean": the mean over the patches.
            "pooling": "patches",
        }
    )
    config.tasks = ConfigDict(
        {
            "key": "task",
            "names": {
                "captioning": "captioning",
                "caption": "captioning",
                "cap": "captioning",
                "multiple_choice": "multiple_choice",
                "mc": "multiple_choice",
                "mcqa": "multiple_choice",
                "open_ended": "open_ended",
                "oe": "open_ended",
            },
        }
    )
    # The paper's threshold is not published. Half of the videos is its Table 7: 100k pruned beside 200k.
    config.subsets = ConfigDict(
        {
            "captioning": {"keep": "share", "value": 0.5},
            "multiple_choice": {"keep": "share", "value": 0.5},
            "open_ended": {"keep": "share", "value": 0.5},
        }
    )
    config.workers = 2  # processes that read videos; 0: none but this one
    config.max_broken_share = 0.05  # of the videos; more, and nothing is written
    return config.lock()
