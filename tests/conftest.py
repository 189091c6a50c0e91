"""Fixtures that every test folder shares."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real NIH films, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("CHEXJAX_REAL_DATA", REPOSITORY.parent / "shared"))
    if not (folder / "nih-128").is_dir():
        pytest.skip(f"no real films: {folder}/nih-128 is absent (set CHEXJAX_REAL_DATA)")
    return folder
