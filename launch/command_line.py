"""Flags of the commands: a wrong key of the configuration is told in a line, not in a traceback.

Source: ours.
"""

import sys
from collections.abc import Callable
from typing import NoReturn

from absl import flags

EXIT_WRONG = 2


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
