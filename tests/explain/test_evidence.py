"""What maps were shown to be worth: which kind is shown, and what is said beside it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.ndimage import gaussian_filter

from chexjax.explain import cam, check, evidence
from chexjax.explain.evidence import Evidence, Pointing, from_json, read_evidence, to_json
from chexjax.models import create_model
from chexjax.predict import Classifier
from chexjax.predict.batch import title_of
from chexjax.trust.kept import fingerprint
from chexjax.workdir.restore import Restored, restore_best
from tests.untrained import save_untrained

FOUND = Evidence(
    {
        "cam": {"Mass": Pointing(100, 20, 10, 4.0), "Nodule": Pointing(9, 9, 0, 0.0)},
        "fine": {
            "Mass": Pointing(100, 40, 10, 12.0),
            "Nodule": Pointing(9, 1, 3, 0.5),
            "Edema": Pointing(60, 30, 29, 3.0),
        },
        "layer_cam": {"Mass": Pointing(100, 90, 10, 88.0)},
    }
)


def test_the_kind_that_hits_most_is_shown_if_it_follows_the_weights() -> None:
    assert FOUND.best == "fine"  # layer_cam hits more, but so do maps of random weights
    assert Evidence({"fine": {"Mass": Pointing(49, 49, 0, 0.0)}}).best == "cam"  # too few
    assert Evidence().best == "cam"


def test_what_is_said_beside_a_map() -> None:
    assert FOUND.note("fine", "Mass") == ""
    assert FOUND.note("fine", "Nodule") == "map not tested: too few boxes of this finding"
    assert FOUND.note("fine", "Hernia") == FOUND.note("fine", "Nodule")
    said = "map not shown to point better than the film's centre (50% of 60 boxes hit, by the centre 48%)"
    assert FOUND.note("fine", "Edema") == said
    assert FOUND.note("saliency", "Mass") == ""  # never checked


def test_intervals_are_wilsons() -> None:
    """Wilson's formula, written out."""
    share, n, z = 0.4, 100, 1.959963984540054
    middle, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    expected = (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
    assert Pointing(100, 40, 0, 0.0).interval == pytest.approx(expected)


def test_hits_are_counted_by_finding() -> None:
    maps = np.zeros((4, 8, 8))
    maps[[0, 1, 2, 3], [1, 1, 6, 1], [1, 6, 6, 1]] = 1.0
    corner, right = np.array([[0.0, 0.0, 0.3, 0.3]]), np.array([[0.7, 0.0, 0.3, 0.3], [0.4, 0.4, 0.2, 0.2]])
    cases = check.Cases(
        np.zeros((4, 8, 8), np.uint8), np.array([0, 0, 0, 1]), [corner, right, corner, np.zeros((0, 4))]
    )
    always = [list(np.tile(maps[:1], (4, 1, 1)))] * 2
    found = check.count_hits(list(maps), [always, [list(np.zeros((4, 8, 8)))]], cases, ("Mass", "Nodule"))
    assert found == {"Mass": Pointing(3, 2, 1, 2.0)}  # the centre lies in the second film's second box


@pytest.fixture
def restored(small_baseline: ConfigDict, tmp_path: Path) -> Restored:
    """One network in a workdir that may be written to."""
    return restore_best(save_untrained(small_baseline, tmp_path / "run"))


def keep(restored: Restored, **fields: object) -> None:
    kept = {"checkpoint": fingerprint(restored), "pointing": to_json({"net1": FOUND})} | fields
    (restored.workdir / evidence.MAPS).write_text(json.dumps(kept))


def test_it_serves_the_checkpoint_that_it_was_found_with(restored: Restored) -> None:
    assert read_evidence(restored) == Evidence()
    keep(restored)
    assert read_evidence(restored) == FOUND
    both = {"net1": restored.models["net1"], "net2": restored.models["net1"]}
    assert read_evidence(dataclasses.replace(restored, models=both)) == Evidence()
    assert read_evidence(dataclasses.replace(restored, step=restored.step + 1)) == Evidence()
    for broken in ({"net1": {"cam": {"Mass": [3, 4, 0, 0.0]}}}, {"net1": []}, [], {"net1": {"cam": {"Mass": [1]}}}):
        keep(restored, pointing=broken)
        assert read_evidence(restored) == Evidence()
    with pytest.raises(ValueError, match="no such counts"):
        from_json({"net1": {"cam": {"Mass": [3, 4, 0, 0.0]}}})


def test_prediction_shows_the_kind_and_says_so_beside_the_map(restored: Restored) -> None:
    thresholds = np.full(14, 0.5)
    assert Classifier(restored, thresholds).maps == "cam"
    keep(restored)
    classifier = Classifier(restored, thresholds)
    assert classifier.maps == "layer_cam at stride 4, smoothed"
    assert "Mass" not in classifier.map_notes
    assert "by the centre 48%" in classifier.map_notes["Edema"]
    (film,) = classifier.predict([np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)])
    assert "place unproven" in title_of(film, "Edema", classifier.map_notes)
    assert "place unproven" not in title_of(film, "Mass", classifier.map_notes)
    assert Classifier(restored, thresholds, "saliency").map_notes == {}


def test_a_fine_map_is_layer_cam_smoothed_as_scipy_does(restored: Restored) -> None:
    model, variables = restored.models["net1"], restored.variables["net1"]
    x = np.random.default_rng(1).normal(size=(2, 64, 64, 1)).astype(np.float32)
    plain = np.asarray(cam.layer_cam(model, variables, x, stride=4))
    sigma = cam.SMOOTHING * plain.shape[1]
    expected = gaussian_filter(plain, sigma, axes=(1, 2), mode="nearest", truncate=20)
    np.testing.assert_allclose(cam.fine_map(model, variables, x, stride=4), expected, atol=1e-5 * plain.max())


@pytest.mark.parametrize("kind", [*cam.METHODS, cam.FINE])
def test_one_finding_a_film_gives_the_same_map(kind: str) -> None:
    model = create_model("tiny2", width=0.125)
    x = np.random.default_rng(2).normal(size=(3, 32, 32, 1)).astype(np.float32)
    variables = model.init(cam.jax.random.key(0), x, train=False)
    _, method = cam.choose_maps([(model, variables)], 32, kind)
    own = np.array([3, 0, 13])
    every, single = np.asarray(method(model, variables, x)), np.asarray(method(model, variables, x, own=own))
    assert single.shape == (*every.shape[:3], 1)
    for film, finding in enumerate(own):
        scale = np.abs(every[film, ..., finding]).max()
        np.testing.assert_allclose(single[film, ..., 0], every[film, ..., finding], atol=1e-5 * scale + 1e-9)
