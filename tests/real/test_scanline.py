"""The scan-line rule on films as they come from the hospital: 1024 x 1024, wires, markers, seven of them RGBA."""

import functools
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from chexjax.data.images import read_grey
from chexjax.scanline import remove_artifacts, remove_artifacts_reference
from chexjax.scanline.accelerators import clean_words

FILMS = 170 if os.environ.get("CHEXJAX_SOAK") else 4


@pytest.fixture(scope="module")
def films(real_data: Path) -> np.ndarray:
    """Evenly chosen films; all of them with CHEXJAX_SOAK."""
    paths = sorted((real_data / "nih-sample").glob("images*/images/*.png"))
    if not paths:
        pytest.skip(f"no films of 1024 x 1024 in {real_data}/nih-sample")
    return np.stack([read_grey(path) for path in paths[:: max(1, len(paths) // FILMS)][:FILMS]])


@pytest.mark.slow
def test_bit_for_bit(films: np.ndarray) -> None:
    assert films.shape[1:] == (1024, 1024)
    wanted = remove_artifacts_reference(films)
    changed = (wanted != films).mean(axis=(1, 2))
    assert 0.0001 < changed.mean() < 0.02, "wires and markers are a small part of a film, but a part"
    assert np.array_equal(remove_artifacts(films), wanted)
    assert np.array_equal(jax.jit(remove_artifacts)(films, np.uint8(50), np.int32(40)), wanted)
    words = jax.jit(functools.partial(clean_words, edge_span=1, spare_wide=False))
    for film, cleaned in zip(films[:3], wanted, strict=False):
        assert np.array_equal(words(film, np.uint8(50), np.int32(40)), cleaned)


def test_options_bit_for_bit(films: np.ndarray) -> None:
    options = {"edge_span": 3, "axes": (-1, -2), "spare_wide": True}
    film = films[:1]
    assert np.array_equal(
        remove_artifacts(film, 40, 60, **options), remove_artifacts_reference(film, 40, 60, **options)
    )
