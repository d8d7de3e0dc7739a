"""Train one stage: `python -m launch.train --config=configs/tiny/tower.py --workdir=DIR [--config.KEY=VALUE]`.

Source: ours (docs/tiny.md). DIR gets metrics.jsonl and the state; a killed run goes on when started again. Banks of
rendered groups lie beside DIR and are shared by the stages.
"""

import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from launch import train_stage
from vxlpro_jax.config import build

CONFIG = config_flags.DEFINE_config_file("config", None, "configuration file of the stage")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"launch.train: {argv[1:]} are no arguments: values are given as --config.KEY=VALUE.")
    try:
        train_stage.run(build(CONFIG.value), Path(WORKDIR.value))
    except (ValueError, OSError) as error:
        print(f"launch.train: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
