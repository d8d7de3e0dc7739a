"""What every test starts from: CPU with four fake devices, exact matmuls, checked shapes, golden data.

Environment and hooks must be set before jax makes its first array and before the first import of a model, so they stand
at the top of this file and not in fixtures.
"""

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the same numbers everywhere; JAX_PLATFORMS=cuda,cpu runs on a GPU
# Compiled programs outlive a run, for subprocesses too: a second run compiles only what changed.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Most of a test's time is XLA optimising a program that runs once. `make slow` and `make optimised` leave this at 0.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import jaxtyping
import pytest

jax.config.update("jax_num_cpu_devices", 4)  # sharded tests run everywhere and are never skipped
jax.config.update("jax_default_matmul_precision", "highest")

already_imported = sorted(name for name in sys.modules if name.startswith("vxlpro_jax.models"))
if already_imported:
    raise RuntimeError(f"{already_imported} imported before tests/conftest.py: their shapes would go unchecked")
jaxtyping.install_import_hook("vxlpro_jax.models", "beartype.beartype")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --golden; afterwards `config.getoption("golden")` is always a Path."""
    parser.addoption(
        "--golden",
        metavar="DIR",
        type=Path,
        default=next((path for path in (SHARED / "golden", REPOSITORY / "tests" / "golden") if path.is_dir()), None),
        help="directory of golden tensors of the reference (default: ../shared/golden, else tests/golden)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a --golden that is no golden directory before anything is collected."""
    golden = config.getoption("golden")
    if golden is not None and not (golden / "index.json").is_file():
        raise pytest.UsageError(f"--golden {golden}: no index.json in it; give a directory laid out like tests/golden")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Where --golden is given, show what passed comparisons print too: tensor, largest error and tolerance."""
    if any(str(argument).startswith("--golden") for argument in config.invocation_params.args):
        for report in terminalreporter.stats.get("passed", []):
            if report.nodeid.startswith("tests/test_golden.py"):
                terminalreporter.write(report.capstdout)


@pytest.fixture(scope="session")
def golden_dir(pytestconfig: pytest.Config) -> Path:
    """The directory of golden tensors that this run compares with."""
    golden = pytestconfig.getoption("golden")
    assert golden is not None, "no golden tensors: neither ../shared/golden nor tests/golden exists; give --golden DIR"
    return golden


@pytest.fixture(scope="session")
def shared_videos() -> Path:
    """A directory of small real clips in many codecs: ../shared/videos, else the copies in tests/videos."""
    for path in (SHARED / "videos", REPOSITORY / "tests" / "videos"):
        if path.is_dir():
            return path
    pytest.skip("no real clips: neither ../shared/videos nor tests/videos exists")


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotation file (LLaVA format) of a small generated set of videos and pictures; nobody changes it."""
    from tests.data.feed_setup import write_set

    return write_set(tmp_path_factory.mktemp("small_set"))
