"""Programs outlive a process; a folder that cannot be written, a switch or a setting of JAX's own is respected."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from vxlpro_jax import program_cache
from vxlpro_jax.program_cache import keep_programs

RUN = """
import jax
from vxlpro_jax.program_cache import keep_programs
before = jax.jit(lambda x: x + 1)(1)  # compiled before the cache is there
keep_programs()
with jax.log_compiles():
    jax.jit(lambda x: x * 3 + 2)(1.5)
"""


@pytest.fixture
def unset(monkeypatch):
    """A process in which nobody chose a folder; what is chosen is put back."""
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv(program_cache.SWITCH, raising=False)
    yield monkeypatch
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])


def test_a_second_process_finds_the_programs_of_the_first(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    environment.pop(program_cache.SWITCH, None)

    def programs() -> set[Path]:
        run = subprocess.run([sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, timeout=600)
        assert run.returncode == 0, run.stderr
        return {path for path in tmp_path.rglob("*-cache") if path.is_file()}

    first = programs()
    assert first
    changed = {path: path.stat().st_mtime_ns for path in first}
    assert programs() == first
    assert {path: path.stat().st_mtime_ns for path in first} == changed  # found, and not made again


def test_the_user_folder_is_where_such_things_go(unset, tmp_path):
    unset.setenv("XDG_CACHE_HOME", str(tmp_path))
    unset.setattr(sys, "platform", "linux")
    folder = keep_programs()
    assert folder is not None and folder.parent == tmp_path / "vxlpro_jax" and folder.is_dir()
    assert jax.config.jax_compilation_cache_dir == str(folder)


def test_another_folder_can_be_named(unset, tmp_path):
    unset.setenv(program_cache.SWITCH, str(tmp_path / "mine"))
    folder = keep_programs()
    assert folder is not None and folder.parent == tmp_path / "mine"


@pytest.mark.parametrize("word", ["off", "OFF", "0"])
def test_it_can_be_turned_off(unset, word):
    unset.setenv(program_cache.SWITCH, word)
    assert keep_programs() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_what_jax_was_told_comes_first(unset, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert keep_programs() is None
    assert jax.config.jax_compilation_cache_dir == str(tmp_path) and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_stops_nobody(unset, tmp_path):
    (tmp_path / "file").write_text("in the way")
    unset.setenv(program_cache.SWITCH, str(tmp_path / "file" / "programs"))
    assert keep_programs() is None
    unset.delenv(program_cache.SWITCH)
    unset.setattr(program_cache, "_user_folder", lambda: Path("/proc/1/nowhere"))
    assert keep_programs() is None
