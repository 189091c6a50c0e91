"""A small entry file and predictions that fit it."""

from pathlib import Path

import numpy as np
import pytest

from chexjax.findings import FINDINGS

COUNT = 40


@pytest.fixture(scope="session")
def entry_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 films of 20 patients; Hernia on none, the other findings on about a third."""
    rng = np.random.default_rng(0)
    lines = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"]
    for k in range(COUNT):
        named = [finding for finding in FINDINGS[:-1] if rng.random() < 0.35]
        labels = "|".join(named) or "No Finding"
        lines.append(f"f{k:02d}.png,{labels},0,{k // 2},{5 + 2 * k},{'MF'[k % 2]},{'PA' if k < 10 else 'AP'}")
    path = tmp_path_factory.mktemp("entries") / "Data_Entry_2017_v2020.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def probabilities() -> np.ndarray:
    return np.random.default_rng(1).random((COUNT, len(FINDINGS)))
