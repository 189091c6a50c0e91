"""Real films through prediction: RGBA ones too, cleaned at their own size, boxes on the film."""

from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from chexjax.models import create_model
from chexjax.predict import Classifier
from chexjax.scanline import remove_artifacts_reference
from chexjax.workdir.restore import Restored
from configs import common


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    config: ConfigDict = common.base()
    config.data.update({"size": 32, "clean": True})
    model = create_model("tiny", width=0.125)
    variables = jax.jit(model.init)(jax.random.key(0, impl="rbg"), np.zeros((1, 32, 32, 1), np.float32))
    restored = Restored(Path("nowhere"), config, 1, {"net1": model}, {"net1": variables}, {})
    return Classifier(restored, np.full(14, 0.5))


def test_real_films_of_both_modes(real_data: Path, classifier: Classifier) -> None:
    paths = sorted((real_data / "nih-sample").glob("images*/images/*.png"))
    rgba = [path for path in paths if Image.open(path).mode == "RGBA"]
    found = classifier.predict([*paths[:2], rgba[0]])
    for prediction in found:
        assert prediction.film.shape == (1024, 1024)
        np.testing.assert_array_equal(prediction.cleaned, remove_artifacts_reference(prediction.film))
        for box in prediction.boxes(prediction.ranked[0]):
            assert 0 <= box.left < box.left + box.width <= 1024
            assert 0 <= box.top < box.top + box.height <= 1024
    assert len({prediction.probabilities.tobytes() for prediction in found}) == 3
