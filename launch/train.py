"""Train one stage: `python -m launch.train --config=configs/tiny/tower.py --workdir=DIR [--config.KEY=VALUE]`.

More: [--allow_changed_config] goes on with a run whose configuration was changed. DIR gets config.json,
provenance.json, metrics.jsonl, tensorboard/, checkpoints/ and in the end model/; a killed run goes on when started
again. Banks of rendered groups lie beside DIR and are shared by the stages.
Exit code: 0 done, 2 wrong arguments or no place to write, 3 loss or gradient not finite too often, 75 stopped by
SIGTERM or Ctrl-C with the state saved (start again to go on).

A configuration with a block `recot` is the reconstructive stage (docs/train_dts.md), whose clips lie inside DIR.

Source: ours (docs/training.md).
"""

from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from launch.command_line import fail, flags_parser

CONFIG = config_flags.DEFINE_config_file("config", None, "configuration file of the stage")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
ALLOW = flags.DEFINE_bool("allow_changed_config", False, "go on with a run although its configuration was changed")
EXIT_NOT_FINITE, EXIT_STOPPED = 3, 75
COMMAND = "launch.train"


def main(argv: list[str]) -> None:
    # Here and not above: the processes that decode videos read this file too, and need none of it.
    from launch import train_stage
    from vxlpro_jax.config import build
    from vxlpro_jax.data.pipeline import BrokenDataError
    from vxlpro_jax.train.loop import NotFiniteError, StoppedError
    from vxlpro_jax.train.recot_stage import ReCoTRunConfig

    if len(argv) > 1:
        fail(COMMAND, f"{argv[1:]} are no arguments: values are given as --config.KEY=VALUE.")
    logging.set_verbosity(logging.WARNING)  # Orbax tells every step of every save
    try:
        if "recot" in CONFIG.value:
            from launch import recot_run  # brings along what no other stage needs

            recot_run.run(build(CONFIG.value, ReCoTRunConfig), Path(WORKDIR.value), ALLOW.value)
        else:
            train_stage.run(build(CONFIG.value), Path(WORKDIR.value), ALLOW.value)
    except StoppedError as stopped:
        fail(COMMAND, str(stopped), EXIT_STOPPED)
    except NotFiniteError as error:
        fail(COMMAND, str(error), EXIT_NOT_FINITE)
    except (ValueError, OSError, BrokenDataError) as error:
        fail(COMMAND, str(error))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=flags_parser(COMMAND))
