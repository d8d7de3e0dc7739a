"""What is wrong with a generated answer before one asks whether it is right: empty, endlessly repeated, another kind.

Source: ours. A model whose numbers went wrong at great length often still scores in tests that force the answer's
tokens; in free text it shows.
"""

import re
from collections.abc import Sequence

from vxlpro_jax.data.synthetic_questions import CANDIDATES

EMPTY, REPEATED, OTHER_KIND = "empty", "repeats itself", "not of the kind asked for"
MIN_REPEATS = 4  # of words; a shorter row of equal words may be meant
MAX_PERIOD = 12  # words of the longest sentence that is looked for
MIN_SIGNS = 8  # of one and the same sign in a row ("!!!!!!!!")


def answer_fault(kind: str, text: str) -> str:
    """EMPTY, REPEATED, OTHER_KIND or "" for an answer to a question of a kind: one of CANDIDATES, "when" (a number is
    expected), or anything else (any text will do)."""
    words = re.findall(r"\w+", text.lower())
    if re.search(rf"(\S)\1{{{MIN_SIGNS - 1}}}", text):
        return REPEATED
    if not words:
        return EMPTY
    if ends_in_a_loop(words):
        return REPEATED
    if kind == "when":
        return "" if re.search(r"\d", text) else OTHER_KIND
    return "" if kind not in CANDIDATES or set(words) & set(CANDIDATES[kind]) else OTHER_KIND


def ends_in_a_loop(words: Sequence[str]) -> bool:
    """Whether the last words are the same 1 to MAX_PERIOD words MIN_REPEATS times over."""
    for period in range(1, MAX_PERIOD + 1):
        same = 0
        while same + period < len(words) and words[-1 - same] == words[-1 - same - period]:
            same += 1
        if same >= (MIN_REPEATS - 1) * period:
            return True
    return False
