"""Ctrl-C in a terminal: a clean screen, exit code 130, and an index that the same command ends as if undisturbed."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from vxlpro_jax.data.synthetic import sample_video
from vxlpro_jax.data.synthetic_files import write_video

CTRL_C = b"\x03"


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests that run in the background are born without it


@pytest.mark.slow
def test_ctrl_c(tmp_path: Path) -> None:
    write_video(sample_video(3, 0, 3000), tmp_path / "video.mp4")
    command = [sys.executable, "-m", "vxlpro_jax.cli", "index", str(tmp_path / "video.mp4"), "-o"]
    cut, whole = tmp_path / "cut.vxl", tmp_path / "whole.vxl"
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 100))
    before = termios.tcgetattr(ours)
    process = subprocess.Popen(
        [*command, str(cut)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    screen, pressed = b"", False
    end = time.monotonic() + 600
    while time.monotonic() < end:
        try:
            screen += os.read(ours, 65536)
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:  # they hung up
            break
        if not pressed and (cut / "segment-00000.safetensors").exists():
            os.write(ours, CTRL_C)
            pressed = True
    assert process.wait(60) == 130 and pressed
    after = termios.tcgetattr(ours)
    os.close(ours)
    text = screen.decode()
    assert "encoding video.mp4" in text and "Traceback" not in text
    last = f"\nvxlpro index: stopped; {cut} is unfinished, and the same command goes on with it\r\n"
    assert text.endswith(last) and after == before
    for output in (cut, whole):
        subprocess.run([*command, str(output)], check=True)
    assert {path.name: path.read_bytes() for path in cut.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }
