"""Videos of hours: the late card, and stamps that are read back from their tokens; the run itself takes minutes."""

import pytest

from bench import long_video
from bench.long_video import late_video, main, wrong_stamps


def test_stamps_beyond_four_digits(monkeypatch):
    times_s = [0.0, 12.04, 9996.0, 9999.9, 9999.96, 10000.0, 10799.0, 123456.7]
    assert wrong_stamps(times_s) == 0
    told = long_video.stamp_ids
    monkeypatch.setattr(
        long_video, "stamp_ids", lambda times, *rest: told([min(time, 9999.0) for time in times], *rest)
    )
    assert wrong_stamps(times_s) == 2 * 5  # of either model's stamps


def test_the_last_event_is_late():
    video = late_video(10_001)
    (digit,) = [event for event in video.events if event.kind == "digit_card"]
    assert (digit.start_s, digit.end_s) == (9998.0, 10001.0)
    assert list(video.events) == sorted(video.events, key=lambda event: event.start_s)
    with pytest.raises(SystemExit) as end:
        main(["--lengths", "10000"])
    assert end.value.code == 2
