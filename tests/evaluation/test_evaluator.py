"""A network over a split: each film counts once, whatever the batches are filled up with."""

import io

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.special import expit

from chexjax.data.augment import normalize
from chexjax.data.pipeline import evaluation_batches
from chexjax.data.prepared import Part
from chexjax.devices import replicate
from chexjax.evaluation.evaluator import create_predictor, predict_split
from chexjax.models import create_model

FILMS = 11
PIXELS = np.random.default_rng(0).integers(0, 256, (FILMS, 32, 32), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 2, (FILMS, 14), np.uint8)
PART = Part(tuple(f"{k}.png" for k in range(FILMS)), tuple(map(str, range(FILMS))), LABELS)


class Source:
    def __len__(self) -> int:
        return FILMS

    def __getitem__(self, film: int) -> dict:
        buffer = io.BytesIO()
        Image.fromarray(PIXELS[film]).save(buffer, "png")
        return {"image": buffer.getvalue(), "label": LABELS[film]}


@pytest.fixture(scope="module")
def networks() -> dict:
    """Two small networks whose running statistics are not those of a new one."""
    model = create_model("tiny", width=0.125)
    films = normalize(PIXELS[..., None], 0.5, 0.25)
    found = {}
    for seed, name in enumerate(("net1", "net2")):
        variables = jax.jit(model.init)(jax.random.key(seed, impl="rbg"), films)
        _, mutated = model.apply(variables, films, train=True, mutable=["batch_stats"])
        found[name] = {"params": variables["params"], **mutated}
    return {"model": model, "variables": found}


@pytest.mark.parametrize("batch_size", [4, 8, 64])
def test_predictions_do_not_depend_on_the_batch_nor_on_what_fills_it_up(networks: dict, batch_size: int) -> None:
    model, variables = networks["model"], networks["variables"]
    predictor = create_predictor(dict.fromkeys(variables, model.apply), 0.5, 0.25)
    told: list[int] = []
    found = predict_split(predictor, replicate(variables), evaluation_batches(Source(), batch_size), PART, told.append)
    assert sum(told) == FILMS
    for name in variables:
        logits = model.apply(variables[name], normalize(PIXELS[..., None], 0.5, 0.25), train=False)
        np.testing.assert_allclose(found.probabilities[name], expit(np.asarray(logits, np.float64)), atol=1e-6)
        entropy = -np.where(LABELS, np.log(expit(logits)), np.log(expit(-logits))).mean()
        assert found.losses[name] == pytest.approx(entropy, rel=1e-5)
    mean = (found.probabilities["net1"] + found.probabilities["net2"]) / 2
    np.testing.assert_array_equal(found.probabilities["ensemble"], mean)
    assert set(found.aurocs) == {"net1", "net2", "ensemble"}
