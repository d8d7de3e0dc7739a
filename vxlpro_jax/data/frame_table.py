"""The table of a video's frames: which exist, when each is shown, and from which key frame each can be decoded.

Source: ours, measured (tests/data/test_video_decode.py): a seek is exact only if checked against presentation times.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

_GRID_DRIFT = 0.1  # of a step: Matroska rounds times to milliseconds
_CONSTANT_SHARE = 0.8  # of the steps being equal makes a constant rate


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
    file. `lost` are frames which the header announces and the file no longer holds, at position -1.
    """

    num_frames: int
    times_s: np.ndarray  # float64 [num_frames], from the first shown frame
    duration_s: float
    pts: np.ndarray  # int64 [num_frames], ascending
    positions: np.ndarray  # int64 [num_frames]
    gop_of: np.ndarray  # int64 [num_frames], ascending
    settled_by: np.ndarray  # int64 [num_frames]: last frame decoded no later than frame i; B-frames point ahead
    key_positions: np.ndarray  # int64 [gops], ascending; the first is 0
    key_pts: np.ndarray  # int64 [gops]
    key_dts: tuple[int | None, ...]
    position_by_pts: dict[int | None, int]  # of every packet, shown or not
    index_by_pts: dict[int | None, int]
    is_ordinal: bool
    lost: frozenset[int]

    def gop_frames(self, gop: int) -> range:
        """The frames that depend on this group's packets."""
        return range(int(np.searchsorted(self.gop_of, gop)), int(np.searchsorted(self.gop_of, gop, side="right")))

    def first_frame_from(self, gop: int) -> int:
        """The first frame a decoder started at this group's key packet shows rightly (leading pictures excluded)."""
        return 0 if gop == 0 else int(np.searchsorted(self.pts, self.key_pts[gop]))

    @property
    def has_open_groups(self) -> bool:
        """True if pictures that come after a key frame in the file lean on frames before it."""
        by_decoding = np.searchsorted(self.key_positions, self.positions, side="right") - 1
        return bool(np.any((by_decoding > self.gop_of) & (self.positions >= 0)))

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
    packets: Sequence[PacketRecord],
    time_base: Fraction,
    frame_s: float,
    announced_end_s: float | None = None,
    is_complete: bool = True,
) -> FrameTable:
    """For streams with usable times. frame_s: a frame's duration if packets don't tell.

    announced_end_s: when the last frame ends, by the header, on the clock of the packets. Frames between the last one
    present and that time count as lost. is_complete: False if it is known that packets are missing.
    """
    all_pts = np.array([packet.pts for packet in packets], np.int64)
    shown = np.flatnonzero([packet.is_shown for packet in packets])
    positions = shown[np.argsort(all_pts[shown], kind="stable")]
    frame_ticks = max(1, round(frame_s / time_base))
    places, pts = np.arange(len(positions)), all_pts[positions]
    if announced_end_s is not None:
        places, pts = _with_absent(pts, frame_ticks, announced_end_s / float(time_base), is_complete)
    positions_of_all = np.full(len(pts), -1, np.int64)
    positions_of_all[places] = positions
    key_positions = np.flatnonzero([packet.is_key for packet in packets])
    if len(key_positions) == 0 or key_positions[0] != 0:
        key_positions = np.concatenate([[0], key_positions])  # what precedes the first key frame goes with it
    key_pts = all_pts[key_positions]
    key_pts[0] = min(key_pts[0], pts[0])
    if np.any(np.diff(key_pts) <= 0):
        key_positions, key_pts = key_positions[:1], key_pts[:1]
    gop_of = np.searchsorted(key_pts, pts, side="right") - 1
    by_decoding = np.searchsorted(key_positions, positions, side="right") - 1
    gop_of[places] = np.minimum(gop_of[places], by_decoding)
    index_by_position = np.full(len(packets), -1, np.int64)
    index_by_position[positions] = places
    settled_by = np.arange(len(pts))
    settled_by[places] = np.maximum.accumulate(index_by_position)[positions]
    last_s = packets[int(positions[-1])].duration * float(time_base)
    times_s, duration_s = timeline(pts * float(time_base), last_s or None, frame_s)
    return FrameTable(
        num_frames=len(pts),
        times_s=times_s,
        duration_s=duration_s,
        pts=pts,
        positions=positions_of_all,
        gop_of=np.minimum.accumulate(gop_of[::-1])[::-1],
        settled_by=settled_by,
        key_positions=key_positions,
        key_pts=key_pts,
        key_dts=tuple(packets[position].dts for position in key_positions.tolist()),
        position_by_pts={time: position for position, time in enumerate(all_pts.tolist())},
        index_by_pts=dict(zip(pts[places].tolist(), places.tolist(), strict=True)),
        is_ordinal=False,
        lost=frozenset(np.flatnonzero(positions_of_all < 0).tolist()),
    )


def _with_absent(
    pts: np.ndarray, frame_ticks: int, announced_end: float, is_complete: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(place of each present frame among all, times of all), all being those announced, present or not."""
    steps = np.diff(pts) if len(pts) > 1 else np.array([frame_ticks])
    step = float(np.median(steps))
    shortfall = announced_end - pts[-1] - step
    tolerance = step if not is_complete else 1.5 * max(step, float(steps.max()))  # clocks differ by less
    num_after = round(shortfall / step) if shortfall >= tolerance - 1e-6 else 0
    places = np.arange(len(pts))
    if not num_after:
        return places, pts
    if np.mean(np.abs(steps - step) <= _GRID_DRIFT * step) > _CONSTANT_SHARE:
        on_grid = (pts - pts[0]) / step
        if np.max(np.abs(on_grid - np.rint(on_grid))) <= _GRID_DRIFT:
            places = np.rint(on_grid).astype(np.int64)  # at a constant rate gaps are frames that went missing
    num_frames = int(places[-1]) + 1 + num_after
    times = pts[0] + np.rint(np.arange(num_frames) * step).astype(np.int64)
    times[places[-1] :] = pts[-1] + np.rint(np.arange(1 + num_after) * step).astype(np.int64)
    times[places] = pts
    return places, times


def table_from_count(stamps_s: Sequence[float | None], lost: Sequence[int], frame_s: float) -> FrameTable:
    """For streams without usable times: one entry per frame that a decoding from the start showed."""
    num_frames = len(stamps_s)
    nothing = np.nan
    times_s, duration_s = timeline(
        np.array([nothing if stamp is None else stamp for stamp in stamps_s], np.float64), None, frame_s
    )
    counts = np.arange(num_frames)
    return FrameTable(
        num_frames=num_frames,
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


def timeline(stamps_s: np.ndarray, last_s: float | None, frame_s: float) -> tuple[np.ndarray, float]:
    """(times_s [num_frames] counted from the first frame, duration_s).

    Stamps that are missing or don't advance are replaced by the typical step, and what follows moves along, so that
    time always runs forward. last_s is how long the last frame is shown, frame_s the typical step if nothing tells.
    """
    steps = np.diff(stamps_s)
    is_good = np.isfinite(steps) & (steps > 0)
    typical_s = float(np.median(steps[is_good])) if np.any(is_good) else frame_s
    if np.all(is_good) and np.all(np.isfinite(stamps_s)):
        times_s = stamps_s - stamps_s[0]
    else:
        times_s = np.concatenate([[0.0], np.cumsum(np.where(is_good, steps, typical_s))])
    return times_s, float(times_s[-1] + (last_s or typical_s))
