"""A destination appears whole or not at all.

Source: ours.
"""

import shutil
from pathlib import Path

import pytest

from vxlpro_jax.convert.atomic_folder import new_folder
from vxlpro_jax.convert.errors import ConversionError


def test_the_folder_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    with new_folder(target, 1) as folder:
        (folder / "a").write_text("x")
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    assert (target / "a").read_text() == "x"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_stays_when_the_block_fails(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), new_folder(tmp_path / "model", 1) as folder:
        (folder / "a").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="model: cannot be written .*No space left"):
        with new_folder(tmp_path / "model", 1):
            raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_seen_before_writing(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(ConversionError, match="no space: .* GB are needed, .* GB are free"):
        with new_folder(tmp_path / "model", 2 * free):
            raise AssertionError("written anyway")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_exists_is_not_touched(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "model"
    if kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("x")
    else:
        target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConversionError, match="model: exists"), new_folder(target, 1):
        raise AssertionError("written anyway")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_target_that_appears_meanwhile_wins(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="model: exists"), new_folder(tmp_path / "model", 1):
        (tmp_path / "model").mkdir()
    assert list((tmp_path / "model").iterdir()) == []


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConversionError, match="cannot be written"), new_folder(tmp_path / "file" / "model", 1):
        raise AssertionError("written anyway")
