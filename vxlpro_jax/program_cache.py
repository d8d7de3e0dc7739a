"""Compiled programs, kept on disk: a second start loads them where the first one compiled for seconds.

Source: ours; JAX's persistent compilation cache.
"""

import hashlib
import os
import platform
import sys
from pathlib import Path

import jax

SWITCH = "VXLPRO_PROGRAM_CACHE"
OFF = ("off", "0", "no", "false")


def keep_programs() -> Path | None:
    """Turns the cache on; returns its folder, None where it stays off or where somebody else decided (JAX's own
    setting, JAX_COMPILATION_CACHE_DIR, comes first).

    VXLPRO_PROGRAM_CACHE names another folder, or is "off". A folder that cannot be written is passed over.
    """
    wanted = os.environ.get(SWITCH, "")
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if wanted.lower() in OFF or chosen:
        return None
    try:
        folder = (Path(wanted).expanduser() if wanted else _user_folder() / "vxlpro_jax") / _processor()
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return None
    except (OSError, RuntimeError):  # RuntimeError: nobody's home
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Small programs count too: there are many, and each costs more to compile than to load.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder


def _user_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _processor() -> str:
    """Programs for CPU are made for its instructions: a home shared by machines keeps those of each apart."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        known = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        known = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(known.encode()).hexdigest()[:12]}"
