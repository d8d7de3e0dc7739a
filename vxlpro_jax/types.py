"""The alphabet of shapes, and the records that every room speaks.

B batch, T frames, G groups of frames, P patches (or tokens) per frame, L sequence, S cache length, D model width, E
vision width, F MLP width, N query heads, K key/value heads, H head dim, V vocabulary. Stamp tokens of a group are
counted by W ("words").

Numpy only: the data workers import this file and must start fast.

Source: SPEC 9 for the order of a row and its stamps.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

IGNORE_LABEL = -100
"""Label of a token that the loss does not count."""

VIDEO_MARK = -200
"""Stands in a prompt's token ids where a video goes; it is no token and has no embedding."""

Array = Any  # numpy on the host, jax.Array under jit: a record is a pytree either way


@dataclass(frozen=True)
class StampConfig:
    """How the time of a group of frames is written before its tokens (SPEC 9.1).

    text: format of the time of the group's first frame, in seconds.
    num_tokens: tokens of that text for times that keep its usual width; longer stamps are handled, they only cost more.
    """

    text: str
    num_tokens: int


class RowBatch(NamedTuple):
    """A batch of prompts, each a row of text with its videos' groups, in static shapes.

    text_ids int32 [B, L_text]: text tokens, 0 where padding.
    query_mask bool [B, L_text]: True where the token takes part in the selector's query.
    stamp_ids int32 [B, G, W]: the stamp's tokens of each group.
    stamp_mask bool [B, G, W]: True where stamp_ids holds a real token.
    video_of_group int32 [B, G]: number of the row's video that the group belongs to, -1 for a padding group. Groups of
        one video stand together and in order.
    row_source int32 [B, L]: the row in reading order, before anything is dropped, as indices into the row's
        concatenation of text [L_text], stamps [G * W] and visual tokens [G * P]; -1 for padding, which comes last.
    labels int32 [B, L_text]: the token itself where the loss counts it, IGNORE_LABEL elsewhere.
    """

    text_ids: Array
    query_mask: Array
    stamp_ids: Array
    stamp_mask: Array
    video_of_group: Array
    row_source: Array
    labels: Array


class RowPlan(NamedTuple):
    """What each row that the LLM reads is made of, in numbers alone: long prompts are built from it piece by piece.

    ids int32 [B, L]: the token of text and stamps. visual int32 [B, L]: the visual token, counted over all groups; -1
    elsewhere. place int32 [B, L]: the row's number within its video, 0 for text, which rotation by 0 leaves as it is.
    score float32 [B, L]: of the visual token, 0 elsewhere. valid bool [B, L], True = real, always a prefix.
    """

    ids: Array
    visual: Array
    place: Array
    score: Array
    valid: Array


class Selection(NamedTuple):
    """How many tokens the query-aware selector keeps (SelectorConfig.selection says which field is obeyed).

    num_keep int32 [B, videos]: visual tokens to keep of each video; every stamp stays. budget int32 [B]: rows that the
    videos of a prompt may take in all, stamps counted; a group that keeps nothing loses its stamp.
    """

    num_keep: Array
    budget: Array


class ClipBatch(NamedTuple):
    """A batch of training: pixels of videos and pictures, what is asked about them, and what the loss counts.

    frames uint8 [B, T, S, S, 3]: whole groups; a short one repeats its last frame, a picture fills a group with itself,
        missing groups are black. On the device data/image_transforms.py to_pixels makes of them what the tower takes.
    rows: the prompts with their answers; None where nothing is asked (ReCoT). selection: what the selector keeps, drawn
        by the feed; None with rows. width bool [length]: its shape is the static number of rows after selection; None
        with rows.
    relevant bool [B, G]: True where the group shows what is asked about; has_relevant bool [B]: True where somebody
        said so and a group shows it; both None with rows.
    valid bool [B]: False where no sample could be read: black frames, no text, no labels.
    sample_ids int32 [B]: which record of the mixture each row is.
    """

    frames: Array
    rows: RowBatch | None
    selection: Selection | None
    relevant: Array | None
    has_relevant: Array | None
    valid: Array
    sample_ids: Array
    width: Array | None


def num_kept_by_rate(num_tokens: int, keep_rate: float, keep_multiple: int) -> int:
    """Tokens that the released rule keeps of num_tokens: the share, rounded down to a multiple (SPEC 9.6)."""
    if not 0 < keep_rate <= 1:
        raise ValueError(f"keep_rate {keep_rate}: a share in (0, 1] is accepted")
    count = int(num_tokens * keep_rate)
    return count - count % keep_multiple


def num_kept_in_training(num_tokens: int, keep_rate: float, keep_multiple: int) -> int:
    """The same, but a medium of fewer tokens than the rule's multiple keeps what it has: nothing left would teach
    nothing."""
    return num_kept_by_rate(num_tokens, keep_rate, keep_multiple) or min(num_tokens, keep_multiple)
