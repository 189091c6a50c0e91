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
from chexjax.evaluation.evaluator import create_predictor, predict_split, summarize
from chexjax.evaluation.metrics import auroc
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
    sizes: list[int] = []
    found = predict_split(predictor, replicate(variables), evaluation_batches(Source(), batch_size), PART, sizes.append)
    assert sum(sizes) == FILMS
    for name in variables:
        logits = model.apply(variables[name], normalize(PIXELS[..., None], 0.5, 0.25), train=False)
        np.testing.assert_allclose(found.probabilities[name], expit(np.asarray(logits, np.float64)), atol=1e-6)
        entropy = -np.where(LABELS, np.log(expit(logits)), np.log(expit(-logits))).mean()
        assert found.losses[name] == pytest.approx(entropy, rel=1e-5)
    mean = (found.probabilities["net1"] + found.probabilities["net2"]) / 2
    np.testing.assert_array_equal(found.probabilities["ensemble"], mean)
    assert set(found.aurocs) == {"net1", "net2", "ensemble"}


def test_losses_are_means_over_what_is_known_soft_labels_among_it() -> None:
    rng = np.random.default_rng(2)
    labels = np.where(rng.random((FILMS, 14)) < 0.4, np.nan, LABELS).astype(np.float32)
    labels[0], labels[:, 3] = 0.25, np.nan
    logits = rng.normal(0, 3, (FILMS, 14)).astype(np.float32)
    found = summarize(Part(PART.names, PART.patients, labels), {"net1": logits})
    p = expit(logits.astype(np.float64))
    entropy = -labels * np.log(p) - (1 - labels) * np.log(1 - p)
    assert found.losses["net1"] == pytest.approx(np.nanmean(entropy), rel=1e-6)
    assert np.isnan(found.aurocs["net1"][3])
    nothing = summarize(Part(PART.names, PART.patients, np.full((FILMS, 14), np.nan, np.float32)), {"net1": logits})
    assert np.isnan(nothing.losses["net1"])


def test_logits_that_a_sigmoid_would_make_one_are_still_ranked() -> None:
    rng = np.random.default_rng(3)
    logits = (50 + rng.normal(LABELS, 1)).astype(np.float32)
    found = summarize(PART, {"net1": logits})
    np.testing.assert_allclose(found.aurocs["net1"], auroc(LABELS, logits), atol=1e-12)
    assert (found.aurocs["net1"] != 0.5).any()
