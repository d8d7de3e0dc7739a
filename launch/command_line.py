"""Flags of the commands: a wrong key of the configuration is told in a line, not in a traceback.

Source: ours.
"""

import sys
from collections.abc import Callable
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

EXIT_WRONG = 2


def read_command(
    command: str, argv: list[str], options: dict[str, str], required: tuple[str, ...] = ("config",)
) -> tuple[ConfigDict, dict[str, str | None]]:
    """(the configuration of --config, the options by name). options: name -> what it is for.

    Nothing is shared with other commands in the process. Ends the program with code 2 where something is wrong.
    """
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", None, "a configuration", flag_values=values, sys_argv=[command, *argv]
    )
    for name, purpose in options.items():
        flags.DEFINE_string(name, None, purpose, flag_values=values)
    if {"-h", "--help"} & set(argv):
        print(f"usage: python -m {command} --config=FILE [--config.KEY=VALUE]")
        print("".join(f"  --{name}=...  {purpose}\n" for name, purpose in options.items()), end="")
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
        fail(command, str(error))
    if rest:
        fail(command, f"{rest} are no arguments: options are given as --NAME=VALUE, keys as --config.KEY=VALUE")
    given_values = {name: getattr(values, name) for name in options}
    if missing := [f"--{name}" for name in required if {"config": config, **given_values}[name] is None]:
        fail(command, f"{', '.join(missing)} is needed (python -m {command} --help)")
    return config, given_values


def flags_parser(command: str) -> Callable[[list[str]], list[str]]:
    """For app.run: flags as absl reads them; an unknown --config.KEY is an AttributeError there, that names the nearest
    key."""

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        except (AttributeError, KeyError, TypeError) as error:
            given = ", ".join(word for word in argv if word.startswith("--config."))
            said = str(error).replace("\\'", "'").replace("\\n", "; ").strip("'\"")
            fail(command, f"{given}: the configuration does not take this ({said})")
        except (flags.Error, OSError, ValueError) as error:
            fail(command, str(error))

    return parse


def fail(command: str, said: str, code: int = EXIT_WRONG) -> NoReturn:
    print(f"{command}: {said}", file=sys.stderr)
    sys.exit(code)
