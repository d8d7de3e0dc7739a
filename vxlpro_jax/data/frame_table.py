"""The table of a video's frames: which exist, when each is shown, and from which key frame each can be decoded.

Source: MACHINE.md "Video decoding" (a seek is exact only if checked against presentation times).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np


class PacketRecord(NamedTuple):
    """One compressed packet as the demuxer delivers it, in decoding order."""

    pts: int | None  # presentation time, in the stream's time base
    dts: int | None  # decoding time
    duration: int
    is_key: bool
    is_shown: bool  # False: decoded for others' sake only (edit list, invisible reference frame)


@dataclass(frozen=True)
class FrameTable:
    """Index i is the i-th shown frame in order of presentation; positions count packets in order of decoding.

    A group of pictures (gop) g begins with the key packet at key_positions[g]; frame i needs the packets from there
    on. With `is_ordinal` the packets carry no usable times: frames are told apart by counting from the start of the
    file. `num_frames` may exceed `num_present`: frames which the header announces and the file no longer holds.
    """

    num_frames: int
    num_present: int
    times_s: np.ndarray  # float64 [num_frames], from the first shown frame
    duration_s: float
    pts: np.ndarray  # int64 [num_present], ascending
    positions: np.ndarray  # int64 [num_present]
    gop_of: np.ndarray  # int64 [num_present], ascending
    settled_by: np.ndarray  # int64 [num_present]: last frame decoded no later than frame i; B-frames point ahead
    key_positions: np.ndarray  # int64 [gops], ascending; the first is 0
    key_pts: np.ndarray  # int64 [gops]
    key_dts: tuple[int | None, ...]
    position_by_pts: dict[int | None, int]  # of every packet, shown or not
    index_by_pts: dict[int | None, int]
    is_ordinal: bool
    lost: frozenset[int]  # known from the start

    def gop_frames(self, gop: int) -> range:
        """The frames that depend on this group's packets."""
        return range(int(np.searchsorted(self.gop_of, gop)), int(np.searchsorted(self.gop_of, gop, side="right")))

    def first_frame_from(self, gop: int) -> int:
        """The first frame a decoder started at this group's key packet shows rightly (leading pictures excluded)."""
        return 0 if gop == 0 else int(np.searchsorted(self.pts, self.key_pts[gop]))

    def gop_at(self, position: int) -> int:
        """The group whose packets surround this position."""
        return max(0, int(np.searchsorted(self.key_positions, position, side="right")) - 1)


def has_usable_times(packets: Sequence[PacketRecord]) -> bool:
    """True if every packet has a presentation time of its own and decoding times never jump back."""
    times = [packet.pts for packet in packets]
    decoding = [packet.dts for packet in packets if packet.dts is not None]
    return (
        None not in times
        and len(set(times)) == len(times)
        and all(early <= late for early, late in zip(decoding, decoding[1:], strict=False))
    )


def table_from_packets(
    packets: Sequence[PacketRecord], time_base: Fraction, frame_s: float, num_absent: int
) -> FrameTable:
    """For streams with usable times. frame_s: a frame's duration if packets don't tell; num_absent: cut off."""
    all_pts = np.array([packet.pts for packet in packets], np.int64)
    shown = np.flatnonzero([packet.is_shown for packet in packets])
    positions = shown[np.argsort(all_pts[shown], kind="stable")]
    pts = all_pts[positions]
    key_positions = np.flatnonzero([packet.is_key for packet in packets])
    if len(key_positions) == 0 or key_positions[0] != 0:
        key_positions = np.concatenate([[0], key_positions])  # what precedes the first key frame goes with it
    key_pts = all_pts[key_positions]
    key_pts[0] = min(key_pts[0], pts[0])
    if np.any(np.diff(key_pts) <= 0):
        key_positions, key_pts = key_positions[:1], key_pts[:1]
    by_decoding = np.searchsorted(key_positions, positions, side="right") - 1
    by_presentation = np.searchsorted(key_pts, pts, side="right") - 1
    index_by_position = np.full(len(packets), -1, np.int64)
    index_by_position[positions] = np.arange(len(positions))
    last_duration = packets[int(positions[-1])].duration * float(time_base)
    times_s, duration_s = timeline(pts * float(time_base), last_duration or None, frame_s, num_absent)
    return FrameTable(
        num_frames=len(pts) + num_absent,
        num_present=len(pts),
        times_s=times_s,
        duration_s=duration_s,
        pts=pts,
        positions=positions,
        gop_of=np.minimum(by_decoding, by_presentation),
        settled_by=np.maximum.accumulate(index_by_position)[positions],
        key_positions=key_positions,
        key_pts=key_pts,
        key_dts=tuple(packets[position].dts for position in key_positions),
        position_by_pts={int(time): position for position, time in enumerate(all_pts)},
        index_by_pts={int(time): index for index, time in enumerate(pts)},
        is_ordinal=False,
        lost=frozenset(range(len(pts), len(pts) + num_absent)),
    )


def table_from_count(stamps_s: Sequence[float | None], lost: Sequence[int], frame_s: float) -> FrameTable:
    """For streams without usable times: one entry per frame that a decoding from the start showed."""
    num_frames = len(stamps_s)
    nothing = np.nan
    times_s, duration_s = timeline(
        np.array([nothing if stamp is None else stamp for stamp in stamps_s], np.float64), None, frame_s, 0
    )
    counts = np.arange(num_frames)
    return FrameTable(
        num_frames=num_frames,
        num_present=num_frames,
        times_s=times_s,
        duration_s=duration_s,
        pts=counts,
        positions=counts,
        gop_of=np.zeros(num_frames, np.int64),
        settled_by=counts,
        key_positions=np.zeros(1, np.int64),
        key_pts=np.zeros(1, np.int64),
        key_dts=(None,),
        position_by_pts={},
        index_by_pts={},
        is_ordinal=True,
        lost=frozenset(lost),
    )


def timeline(stamps_s: np.ndarray, last_s: float | None, frame_s: float, num_absent: int) -> tuple[np.ndarray, float]:
    """(times_s [frames + num_absent] counted from the first frame, duration_s).

    Stamps that are missing or don't advance are replaced by the typical step, and what follows moves along, so that
    time always runs forward. last_s is how long the last frame is shown, frame_s the typical step if nothing tells.
    """
    steps = np.diff(stamps_s)
    good = steps[np.isfinite(steps) & (steps > 0)]
    typical_s = float(np.median(good)) if len(good) else frame_s
    steps = np.where(np.isfinite(steps) & (steps > 0), steps, typical_s)
    times_s = np.concatenate([[0.0], np.cumsum(np.concatenate([steps, np.full(num_absent, typical_s)]))])
    if np.array_equal(steps, np.diff(stamps_s)):
        times_s[: len(stamps_s)] = stamps_s - stamps_s[0]  # no rounding piles up
    if last_s is None or num_absent:
        last_s = typical_s
    return times_s, float(times_s[-1] + last_s)
