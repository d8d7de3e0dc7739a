"""What is being written is not there yet, and a block that fails leaves what was there."""

import pytest

from launch.whole_file import write_whole, written_whole


def test_a_file_is_there_when_it_is_whole(tmp_path):
    path = tmp_path / "a.npy"
    with written_whole(path) as part:
        part.write_text("new")
        assert part.suffix == ".npy" and not path.exists()
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    with pytest.raises(OSError, match="full"):
        with written_whole(path) as part:
            part.write_text("ne")
            raise OSError("full")
    assert path.read_text() == "old"
