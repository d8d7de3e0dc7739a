"""What all training configurations share; the stages' files change what differs.

Source: ours (docs/tiny.md).
"""

from ml_collections import ConfigDict


def stage() -> ConfigDict:
    """The keys of train/stages.py StageConfig."""
    return ConfigDict(
        {
            "loss": "frames",
            "trainable": (),
            "num_steps": 0,
            "group_weight": 1.0,
            "ranking_weight": 0.5,
            "ranking_sharpness": 8.0,
            "stamp_weight": 0.0,
            "frozen": (),
            "epochs": 1,
            "micro_batches": 1,
            "z_weight": 0.0,
            "dtype": "float32",
            "frozen_dtype": "float32",
            "remat": False,
            "encode_groups": 0,
            "loss_chunk": 0,
            "selection": "",
            "attention": "auto",
        }
    )


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.preset = "tiny"
    config.seed = 1_000_000_000  # seeds below are for tests and measurements
    config.switches = ConfigDict()
    config.init_from = ""
    config.parts = ConfigDict()
    config.mesh = ConfigDict()
    # Layers of the LLM that LoRA's authors and most users adapt; rank 0: no LoRA.
    config.lora = ConfigDict({"rank": 0, "alpha": 16.0, "targets": ("q_proj", "k_proj", "v_proj", "o_proj")})
    config.tokenizer = ""
    config.data = ConfigDict()
    config.heldout = ConfigDict({"num_batches": 4, "num_answers": 4, "max_frames": 64, "max_new_tokens": 32})
    config.export = False
    config.stage = stage()
    config.optimizer = ConfigDict(
        {
            "peak_rate": 1e-3,
            "warmup_steps": 50,
            "final_share": 0.02,
            "weight_decay": 0.02,
            "beta2": 0.98,
            "clip_norm": 1.0,
            "warmup_share": 0.0,
            "rates": {},
        }
    )
    config.loop = ConfigDict(
        {
            "log_every": 25,
            "eval_every": 200,
            "save_every": 200,
            "prefetch": 3,
            "keep_last": 2,
            "keep_best": 1,
            "best_metric": "",
            "best_is": "lowest",
            "max_skipped_in_row": 10,
        }
    )
    config.vision = ConfigDict(
        {
            "seed": config.seed,
            "num_videos": 1800,
            "num_heldout": 120,
            "num_shuffled": 240,
            "num_textures": 0,
            "batch_frames": 128,
            "batch_groups": 32,
            "painted": 0.6,
            "workers": 2,
            "bank_frames": 0,
        }
    )
    config.rows = ConfigDict()
    return config.lock()
