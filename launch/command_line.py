"""Flags and ends of the commands: what is wrong is told in a line, not in a traceback.

Source: ours.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from launch.whole_file import write_whole

EXIT_WRONG, EXIT_NOT_FINITE, EXIT_STOPPED = 2, 3, 75


def read_command(
    command: str,
    argv: list[str],
    options: dict[str, str],
    required: tuple[str, ...] = ("config",),
    switches: dict[str, str] | None = None,
) -> tuple[ConfigDict, dict[str, Any]]:
    """(the configuration of --config, options and switches by name). options: name -> what it is for; one that is not
    given is None. switches: the same for those that are given without a value, and False otherwise.

    Nothing is shared with other commands in the process. Ends the program with code 2 where something is wrong.
    """
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", None, "a configuration", flag_values=values, sys_argv=[command, *argv]
    )
    for name, purpose in options.items():
        flags.DEFINE_string(name, None, purpose, flag_values=values)
    switches = switches or {}
    for name, purpose in switches.items():
        flags.DEFINE_bool(name, False, purpose, flag_values=values)
    if {"-h", "--help"} & set(argv):
        print(f"usage: python -m {command} --config=FILE [--config.KEY=VALUE]")
        print("".join(f"  --{name}=...  {purpose}\n" for name, purpose in options.items()), end="")
        print("".join(f"  --{name}  {purpose}\n" for name, purpose in switches.items()), end="")
        sys.exit(0)
    try:
        rest = values([command, *argv])[1:]
        config = holder.value
        if config is not None:
            config.keys()  # a file that cannot be read says so only when it is touched
    except (AttributeError, KeyError) as error:  # an unknown --config.KEY; the text names the nearest key
        given = ", ".join(word for word in argv if word.startswith("--config."))
        said = str(error).replace("\\'", "").replace("\\nD", "; d").strip("'\"")
        fail(command, f"{given}: the configuration has no key {said}")
    except (flags.Error, ValueError, TypeError, OSError) as error:
        fail(command, " ".join(str(error).split()))
    if rest:
        fail(command, f"{rest} are no arguments: options are given as --NAME=VALUE, keys as --config.KEY=VALUE")
    given_values = {name: getattr(values, name) for name in (*options, *switches)}
    if missing := [f"--{name}" for name in required if {"config": config, **given_values}[name] is None]:
        fail(command, f"{', '.join(missing)} is needed (python -m {command} --help)")
    return config, given_values


def run_study(
    command: str, argv: list[str] | None, options: dict[str, str], run: Callable[[ConfigDict, Path], dict[str, Any]]
) -> tuple[ConfigDict, dict[str, Any]]:
    """(the configuration, what run(configuration, --workdir) found), which also goes to the file of --json.

    argv: None for the program's own. Ends the program where something is wrong, as failures_told says.
    """
    config, given = read_command(command, sys.argv[1:] if argv is None else argv, options, ("config", "workdir"))
    with failures_told(command):
        found = run(config, Path(given["workdir"]))
        if given["json"]:
            write_whole(Path(given["json"]), json.dumps(found, indent=1, allow_nan=False) + "\n")
    return config, found


@contextmanager
def failures_told(command: str) -> Iterator[None]:
    """A line and an exit code for whatever ends a training, or a command that trains (docs/training.md)."""
    # Here and not above: processes that decode videos read the commands' files too, and need none of it.
    from vxlpro_jax.data.pipeline import BrokenDataError
    from vxlpro_jax.train.loop import NotFiniteError, StoppedError

    try:
        yield
    except StoppedError as stopped:
        fail(command, str(stopped), EXIT_STOPPED)
    except NotFiniteError as error:
        fail(command, str(error), EXIT_NOT_FINITE)
    except (ValueError, OSError, BrokenDataError) as error:
        fail(command, str(error))


def fail(command: str, said: str, code: int = EXIT_WRONG) -> NoReturn:
    print(f"{command}: {said}", file=sys.stderr)
    sys.exit(code)
