"""Train one stage: `python -m launch.train --config=configs/tiny/tower.py --workdir=DIR [--config.KEY=VALUE]`.

More: [--allow_changed_config] goes on with a run whose configuration was changed. DIR gets config.json,
provenance.json, metrics.jsonl, tensorboard/, checkpoints/ and in the end model/; a killed run goes on when started
again. Banks of rendered groups lie beside DIR and are shared by the stages.
Exit code: 0 done, 2 wrong arguments or no place to write, 3 loss or gradient not finite too often, 75 stopped by
SIGTERM or Ctrl-C with the state saved (start again to go on).

A configuration with a block `recot` is the reconstructive stage (docs/train_dts.md), whose clips lie inside DIR.

Source: ours (docs/training.md).
"""

import sys
from pathlib import Path

from absl import logging

from launch.command_line import failures_told, read_command

COMMAND = "launch.train"
OPTIONS = {"workdir": "folder of the run"}
SWITCHES = {"allow_changed_config": "go on with a run although its configuration was changed"}


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    config, options = read_command(COMMAND, words, OPTIONS, ("config", "workdir"), SWITCHES)
    # Here and not above: the processes that decode videos read this file too, and need none of it.
    from launch import train_stage
    from vxlpro_jax.config import build
    from vxlpro_jax.train.recot_stage import ReCoTRunConfig

    logging.set_verbosity(logging.WARNING)  # Orbax tells every step of every save
    workdir, allow_changes = Path(options["workdir"]), options["allow_changed_config"]
    with failures_told(COMMAND):
        if "recot" in config:
            from launch import recot_run  # brings along what no other stage needs

            recot_run.run(build(config, ReCoTRunConfig), workdir, allow_changes)
        else:
            train_stage.run(build(config), workdir, allow_changes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
