"""The NIH reader on real films: both layouts, RGBA, the official and arnoweng's splits, boxes."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexjax.data.prepared import prepare
from chexjax.data.recipe import Recipe
from chexjax.data.sources import nih
from chexjax.findings import FINDINGS


def test_originals_with_rgba_films_in_numbered_folders(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "nih-sample"
    prepared = prepare(folder, tmp_path, Recipe(size=64, clean=True), progress=False)
    names = [name for part in prepared.parts.values() for name in part.names]
    assert len(names) == len(nih.read_entries(folder)) == 170
    modes = {Image.open(path).mode for path in nih.find_films(folder, names)[0].values()}
    assert modes == {"L", "RGBA"}
    record = prepared.source("test")[0]
    film = np.asarray(Image.open(io.BytesIO(record["image"])))
    assert film.shape == (64, 64)
    assert film.std() > 10


def test_boxes_of_the_sample_lie_on_their_films(real_data: Path) -> None:
    entries = nih.read_entries(real_data / "nih-sample")
    boxes = [box for entry in entries.values() for box in entry.boxes]
    assert len(boxes) == sum(1 for _ in (real_data / "nih-sample" / nih.BOX_FILE).open()) - 1
    assert {box.finding for box in boxes} <= set(FINDINGS)
    assert "Infiltration" in {box.finding for box in boxes}  # the file says Infiltrate
    for box in boxes:
        assert 0 <= box.left < box.left + box.width <= 1.01
        assert 0 <= box.top < box.top + box.height <= 1.01


@pytest.mark.parametrize("split", ["official", "folds"])
def test_splits_of_nine_thousand_films(real_data: Path, split: str) -> None:
    folder = real_data / "nih-128"
    entries = nih.read_entries(folder)
    parts = nih.read_splits(folder, entries, split)
    assert sum(map(len, parts.values())) == len(entries) == 9868
    assert len(parts["test"]) == 1513
    if split == "folds":
        assert (len(parts["train"]), len(parts["val"])) == (7393, 962)
    for finding in range(len(FINDINGS)):
        assert any(entries[name].labels[finding] for name in parts["train"])
    assert not nih.find_films(folder, entries)[1]
