"""The one kind of error that a caller of the converter has to expect: bad weights, bad config, bad place to write.

Source: house rule "named errors"; the command line turns it into a message and exit code 2.
"""


class ConversionError(ValueError):
    """What was wrong with a checkpoint, which keys or files, what is accepted and where to change it."""


def name_some(names, limit: int = 8) -> str:
    """Join names for a message, the first `limit` of them, with a count of those left out."""
    ordered = sorted(str(name) for name in names)
    shown = ", ".join(ordered[:limit])
    return shown if len(ordered) <= limit else f"{shown} and {len(ordered) - limit} more"
