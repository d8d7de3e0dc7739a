"""Prune a data set: `python -m launch.prune --config=configs/prune.py --config.mixture=F --workdir=DIR`.

More: [--config.KEY=VALUE] [--json=FILE]. DIR gets kept/ (annotations in the input's format), scores.parquet, report.md,
similarity.png, prune.json and broken.jsonl; a killed run goes on when started again. Exit code: 0, 1 when too many
videos are broken, 2 for bad arguments.

Source: paper 3.3; docs/pruning.md.
"""

from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from launch.command_line import fail, flags_parser

COMMAND = "launch.prune"
CONFIG = config_flags.DEFINE_config_file("config", None, "configuration file")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
JSON = flags.DEFINE_string("json", None, "also write the summary (prune.json) to this file")


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    # The processes that read videos import this file anew; what brings jax along is imported when it is needed.
    from launch import prune_run

    if len(argv) > 1:
        fail(COMMAND, f"{argv[1:]} are no arguments: values are given as --config.KEY=VALUE.")
    try:
        settings = prune_run.read_config(CONFIG.value)
        workdir = Path(WORKDIR.value)
        prune_run.prune(settings, workdir, Path(JSON.value) if JSON.value else None)
        print((workdir / "report.md").read_text(encoding="utf-8"))
    except prune_run.TooManyBroken as error:
        fail(COMMAND, str(error), code=1)
    except (ValueError, OSError) as error:
        fail(COMMAND, str(error))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=flags_parser(COMMAND))
