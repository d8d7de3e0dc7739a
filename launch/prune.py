"""Prune a data set: `python -m launch.prune --config=configs/prune.py --config.mixture=F --workdir=DIR`.

More: [--config.KEY=VALUE] [--json=FILE]. DIR gets kept/ (annotations in the input's format), scores.parquet, report.md,
similarity.png, prune.json and broken.jsonl; a killed run goes on when started again. Exit code: 0, 1 when too many
videos are broken, 2 for bad arguments.

Source: paper 3.3; docs/pruning.md.
"""

import sys
from pathlib import Path

from absl import logging

from launch.command_line import fail, read_command

COMMAND = "launch.prune"
OPTIONS = {"workdir": "folder of the run", "json": "also write the summary (prune.json) to this file"}


def main(argv: list[str] | None = None) -> int:
    logging.set_verbosity(logging.WARNING)
    config, options = read_command(COMMAND, sys.argv[1:] if argv is None else argv, OPTIONS, ("config", "workdir"))
    # The processes that read videos import this file anew; what brings jax along is imported when it is needed.
    from launch import prune_run

    try:
        settings = prune_run.read_config(config)
        workdir = Path(options["workdir"])
        prune_run.prune(settings, workdir, Path(options["json"]) if options["json"] else None)
        print((workdir / "report.md").read_text(encoding="utf-8"))
    except prune_run.TooManyBroken as error:
        fail(COMMAND, str(error), code=1)
    except (ValueError, OSError) as error:
        fail(COMMAND, str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
