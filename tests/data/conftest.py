"""Fixtures of the data room."""

from pathlib import Path

import pytest

from tests.data.feed_setup import write_set


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotation file of a small generated set; nobody changes it."""
    return write_set(tmp_path_factory.mktemp("small_set"))
