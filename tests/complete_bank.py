"""A bank of labels without pixels, with every look in every window of frames: for tests of what is composed from it."""

import numpy as np

from vxlpro_jax.data.synthetic_bank import KINDS, GroupBank


def complete_bank() -> GroupBank:
    """Labels without pixels: every look in every window of frames, and empty groups."""
    rng = np.random.default_rng(0)
    lines = []
    for kind, glyphs in (("shape_card", range(6)), ("digit_card", range(6, 16)), ("mover", range(6))):
        for glyph in glyphs:
            for colour in range(8):
                for direction in range(4) if kind == "mover" else [-1]:
                    for first in range(4):
                        for last in range(first, 4):
                            shown = [first <= t <= last for t in range(4)]
                            lines.append((KINDS.index(kind), glyph, colour, direction, shown))
    lines += [(KINDS.index("blank_card"), -1, -1, -1, [True] * 4)] * 5 + [(0, -1, -1, -1, [False] * 4)] * 200
    lines = [lines[i] for i in rng.permutation(len(lines))]
    kind, glyph, colour, direction, shown = (np.array(column) for column in zip(*lines, strict=True))
    nowhere = np.full(shown.shape, -1)
    return GroupBank(
        np.zeros((len(lines), 4, 1, 1, 3), np.uint8), kind, glyph, colour, direction, shown, nowhere, nowhere
    )
