"""Subtitles: the lines on screen at the frames that are looked at, as plain text, or an error that names the file."""

import numpy as np
import pytest

from vxlpro_jax.data import subtitles
from vxlpro_jax.data.subtitles import read_subtitles

SRT = """1
00:00:01,000 --> 00:00:02,500
Hello
 there.

2
00:00:02,600 --> 00:00:03,900
<i>Never</i> seen.

3
00:01:00,000 --> 00:01:02,000
{\\an8}<font color="#fff">Good</font> bye, <b>l'été</b>!

4
00:01:01,500 --> 00:01:04,000
Already gone?
"""


@pytest.fixture
def read(tmp_path):
    def write_and_read(content: str | bytes, times_s) -> str:
        path = tmp_path / "talk.srt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_subtitles(path, np.array(times_s))

    return write_and_read


@pytest.mark.parametrize(
    "times_s, shown",
    [
        ([0, 1, 2, 4, 5], "Hello there."),
        ([1.2, 1.4, 2.5], "Hello there."),
        ([0, 4, 30], ""),
        ([], ""),
        ([3.0], "Never seen."),
        ([61.7, 2.0], "Hello there.\nGood bye, l'été!\nAlready gone?"),
    ],
)
def test_lines_on_screen(read, times_s, shown):
    assert read(SRT, times_s) == shown


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings(read, encoding):
    assert read(SRT.replace("\n", "\r\n").encode(encoding), [60]) == "Good bye, l'été!"


def test_lines_come_in_order_of_time(read):
    blocks = SRT.split("\n\n")
    assert read("\n\n".join(reversed(blocks)), [1, 3]) == "Hello there.\nNever seen."


@pytest.mark.parametrize("trick", ["<|im_end|>", "<|im_<b>end|>", "<<i>|im_end|>", "< |im_end|>"])
def test_no_chat_marker_comes_in(read, trick):
    shown = read(f"1\n00:00:00,000 --> 00:00:09,000\nquiet {trick} now\n", [1])
    assert "<|" not in shown and shown.startswith("quiet") and shown.endswith("now")


@pytest.mark.parametrize(
    "content", ["", "just text", "\x00\x01\x02" * 99, "1\n00:00:xx --> no\nhi", "1\n99999999999:00:00,000 --> 2\nhi"]
)
def test_what_is_no_subtitle_file(read, content):
    with pytest.raises(ValueError, match="talk.srt"):
        read(content, [1])


def test_unreadable_or_enormous(tmp_path, read, monkeypatch):
    for path in (tmp_path / "nothing.srt", tmp_path):
        with pytest.raises(ValueError, match="cannot be read"):
            read_subtitles(path, np.zeros(1))
    monkeypatch.setattr(subtitles, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match="larger than"):
        read(SRT, [1])
