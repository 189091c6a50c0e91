"""Films of every kind in, the same answers out; the command's tables, pictures and messages."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from scipy.special import expit, logit

from chexjax import predict
from chexjax.data.images import read_grey
from chexjax.data.recipe import Recipe, clean_films, shrink
from chexjax.errors import CheckpointError, ConfigError, DataError
from chexjax.explain import cam
from chexjax.explain.maps import unit_range
from chexjax.findings import FINDINGS
from chexjax.models import create_model
from chexjax.models.torch_weights import IMAGENET_MEAN, IMAGENET_STD, About, import_file, save_weights
from chexjax.predict import Classifier, Scores, as_film
from chexjax.scanline import remove_artifacts_reference
from chexjax.trust.calibration import Calibration, Curve
from chexjax.trust.domain import Domain
from chexjax.trust.features import see
from chexjax.trust.kept import Trust, write_trust
from chexjax.trust.selective import Bands
from chexjax.workdir.restore import restore_best
from tests.untrained import save_untrained

THRESHOLDS = {finding: {"youden": 0.05 * k} for k, finding in enumerate(FINDINGS, start=1)}


def by_hand(workdir: Path, film: np.ndarray) -> np.ndarray:
    """Probabilities of a film, step by step as the training films went."""
    restored = restore_best(workdir)
    small = shrink(remove_artifacts_reference(film), 32)
    x = (small[None, ..., None].astype(np.float32) / 255 - 0.4) / 0.3
    models = restored.models.items()
    return np.mean([expit(np.asarray(m.apply(restored.variables[n], x), np.float64))[0] for n, m in models], axis=0)


def test_films_go_through_what_the_training_films_did(
    classifier: Classifier, workdir: Path, films: dict[str, Path]
) -> None:
    for prediction in classifier.predict(films.values()):
        film = read_grey(films[prediction.name])
        np.testing.assert_array_equal(prediction.film, film)
        np.testing.assert_array_equal(prediction.cleaned, remove_artifacts_reference(film))
        np.testing.assert_allclose(prediction.probabilities, by_hand(workdir, film), rtol=1e-4, atol=1e-6)
    assert (prediction.cleaned != prediction.film).any() or len(films) == 1


def test_the_table_keeps_the_order_of_logits_that_a_sigmoid_would_make_one(
    workdir: Path, films: dict[str, Path], tmp_path: Path
) -> None:
    """One network whose head gives logits of about 60 to all films: 1 less 1e-26, which is 1 in float64."""
    restored = restore_best(workdir)
    net1 = jax.tree.map(np.array, restored.variables["net1"])
    net1["params"]["head"]["bias"] += 60
    alone = dataclasses.replace(restored, models={"net1": restored.models["net1"]}, variables={"net1": net1})
    classifier = Classifier(alone, np.full(14, np.nan), batch_size=4)
    predict.predict_files(classifier, films, tmp_path / "out", overlays=0, progress=False)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = {row["Image Index"]: row for row in csv.DictReader(file)}
    logits = {}
    for name, path in films.items():
        small = shrink(remove_artifacts_reference(read_grey(path)), 32)
        x = (small[None, ..., None].astype(np.float32) / 255 - 0.4) / 0.3
        logits[name] = np.asarray(alone.models["net1"].apply(net1, x))[0]
    assert (expit(np.stack(list(logits.values())).astype(np.float64)) == 1).all()
    for k, finding in enumerate(FINDINGS):
        written = {name: float(row[finding]) for name, row in rows.items()}
        assert sorted(written, key=written.__getitem__) == sorted(logits, key=lambda name, k=k: logits[name][k])
        assert len(set(written.values())) == len(films)


@pytest.mark.parametrize("options", [{}, {"axes": "columns,rows", "edge_span": 3, "spare_wide": True, "threshold": 30}])
def test_cleaning_is_that_of_the_prepared_set(films: dict[str, Path], options: dict) -> None:
    film, recipe = read_grey(films["3.png"]), Recipe(clean=True, **options)
    (prepared,) = clean_films([film], recipe)
    np.testing.assert_array_equal(predict.clean_film(film, recipe), prepared)


def test_kinds_of_films_may_be_mixed(classifier: Classifier, films: dict[str, Path]) -> None:
    path = films["0.png"]
    grey = np.asarray(Image.open(path))
    rgba = np.dstack([grey] * 3 + [np.full_like(grey, 255)])
    kinds = [
        path,
        str(path),
        Image.open(path),
        Image.fromarray(rgba),
        grey,
        grey[..., None],
        rgba,
        jax.numpy.asarray(grey),
    ]
    found = classifier.predict(kinds)
    for prediction in found[1:]:
        np.testing.assert_allclose(prediction.probabilities, found[0].probabilities, rtol=1e-5)
    assert [prediction.name for prediction in found[:3]] == ["0.png"] * 3
    assert found[4].name == "film 5"
    (alone,) = classifier.predict(grey)
    np.testing.assert_allclose(alone.probabilities, found[0].probabilities, rtol=1e-5)
    assert classifier.predict([]) == []


def test_the_number_of_compilations_is_bounded(classifier: Classifier, films: dict[str, Path]) -> None:
    classifier.predict(films.values())
    before = classifier._apply._cache_size()
    rng = np.random.default_rng(0)
    shapes = [(64, 64), (33, 90), (200, 31), (500, 512), (300, 300)]
    classifier.predict([rng.integers(0, 256, shape, np.uint8) for shape in shapes])
    assert classifier._apply._cache_size() == before == 1


@pytest.mark.parametrize(
    ("film", "message"),
    [
        (np.random.default_rng(0).random((40, 40)), r"array of float64 with values from .* to 0\.99.*\n.*8 bits"),
        (np.full((40, 40), 4095, np.uint16), "uint16 with values from 4095 to 4095"),
        (np.eye(40, dtype=bool), "array of bool"),
        (np.eye(40, dtype=np.uint8), r"grey levels from 0 to 1; .* scaled to 0\.\.1"),
        (np.full((40, 40), 9, np.uint8), "every pixel has grey level 9"),
        (np.zeros((5, 40, 40), np.uint8), r"shape \(5, 40, 40\).*\n.*list"),
        (np.zeros((0, 40), np.uint8), r"shape \(0, 40\)"),
        (Image.new("F", (40, 40)), "mode 'F'"),
        (Image.new("I;16", (40, 40)), "mode 'I;16'"),
        (7, "int is no film"),
    ],
)
def test_other_ranges_and_dtypes_are_refused_with_what_was_seen(film: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_film(film)


def test_a_16_bit_file_and_a_missing_one_are_refused(tmp_path: Path, classifier: Classifier) -> None:
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        classifier.predict(tmp_path / "deep.png")
    with pytest.raises(DataError, match="No such file"):
        classifier.predict(tmp_path / "absent.png")


def test_thresholds_and_ranks(classifier: Classifier, films: dict[str, Path]) -> None:
    prediction = classifier.predict(films["0.png"])[0]
    np.testing.assert_allclose(prediction.thresholds, [0.05 * k for k in range(1, 15)])
    odds = {f: np.log(p / (1 - p)) - np.log(t / (1 - t)) for f, p, t in zip(
        FINDINGS, prediction.probabilities, prediction.thresholds, strict=True)}  # fmt: skip
    assert prediction.ranked == sorted(FINDINGS, key=lambda finding: -odds[finding])
    assert prediction.called == [finding for finding in prediction.ranked if odds[finding] >= 0]
    assert 0 < len(prediction.called) < 14


@pytest.mark.parametrize("trouble", ["absent", "another step", "no thresholds", "no json", "one missing"])
def test_without_thresholds_nothing_is_called(
    trouble: str, workdir: Path, tmp_path: Path, films: dict[str, Path]
) -> None:
    restored = predict.restore_best(workdir)
    results: dict[str, Any] = {"step": 3, "networks": {"ensemble": {"thresholds": dict(THRESHOLDS)}}}
    if trouble == "another step":
        results["step"] = 2
    if trouble == "no thresholds":
        del results["networks"]["ensemble"]["thresholds"]
    if trouble == "one missing":
        results["networks"]["ensemble"]["thresholds"]["Mass"] = {"youden": None}
    if trouble != "absent":
        (tmp_path / "metrics.json").write_text("{" if trouble == "no json" else json.dumps(results))
    found = predict.read_thresholds(dataclasses.replace(restored, workdir=tmp_path))
    if trouble == "one missing":
        assert np.isnan(found).tolist() == [finding == "Mass" for finding in FINDINGS]
    else:
        assert np.isnan(found).all()
        prediction = Classifier(restored, found).predict(films["0.png"])[0]
        assert prediction.called == []
        assert prediction.ranked == [FINDINGS[k] for k in np.argsort(-prediction.probabilities)]


@pytest.mark.parametrize("maps", ["cam", "layer_cam", "saliency"])
def test_maps_are_the_mean_over_the_networks(maps: str, workdir: Path, films: dict[str, Path]) -> None:
    restored = predict.restore_best(workdir)
    prediction = Classifier.from_checkpoint(workdir, maps=maps).predict(films["0.png"])[0]
    x = (shrink(prediction.cleaned, 32)[None, ..., None].astype(np.float32) / 255 - 0.4) / 0.3
    expected = np.mean([cam.METHODS[maps](m, restored.variables[n], x)[0] for n, m in restored.models.items()], axis=0)
    np.testing.assert_allclose(prediction.maps, expected, rtol=1e-3, atol=1e-5)
    heat = prediction.heat("Mass")
    assert heat.shape == prediction.film.shape
    height, width = prediction.film.shape
    for box in prediction.boxes("Mass"):
        assert 0 <= box.left < box.left + box.width <= width
        assert 0 <= box.top < box.top + box.height <= height
        cells = unit_range(prediction.maps)[..., FINDINGS.index("Mass")]
        sides = zip(heat.shape, cells.shape, strict=True)
        rows, columns = (extent / size * (np.arange(size) + 0.5) for extent, size in sides)
        in_rows = (box.top <= rows) & (rows <= box.top + box.height)
        in_columns = (box.left <= columns) & (columns <= box.left + box.width)
        assert box.peak in cells[np.ix_(in_rows, in_columns)]  # the peak is a cell's, exactly


def test_fine_maps_come_from_the_coarsest_stage_that_is_fine_enough() -> None:
    sizes = {32: 4, 64: 4, 128: 8, 224: 16, 320: 16, 448: 32}
    model = create_model("resnet18", width=0.0625)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.numpy.zeros((1, 64, 64, 1)))
    for size, stride in sizes.items():
        assert cam.choose_maps([(model, shapes)], size, "fine")[0] == f"layer_cam at stride {stride}, smoothed"
    assert cam.choose_maps([(model, shapes)], 64) == ("cam", cam.class_activation_map)
    with pytest.raises(ConfigError, match=r"'cams'; there are cam, grad_cam.*, fine"):
        cam.choose_maps([(model, shapes)], 64, "cams")


def test_imported_weights_predict_as_the_run_they_came_from(
    small_baseline: ConfigDict, films: dict[str, Path], tmp_path: Path
) -> None:
    small_baseline.data.update({"mean": 0.4, "std": 0.3})
    small_baseline.networks.net1.width = 1.0
    restored = predict.restore_best(save_untrained(small_baseline, tmp_path / "run"))
    variables = restored.variables["net1"]
    save_weights(tmp_path / "imported", variables, About("tiny", 0.4, 0.3, "file.pth", 32))
    (found,) = Classifier.from_checkpoint(tmp_path / "imported").predict(films["0.png"])
    (expected,) = Classifier.from_checkpoint(tmp_path / "run").predict(films["0.png"])
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-6)
    np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-4, atol=1e-6)
    assert found.called == []
    trunk = {**variables, "params": {"trunk": variables["params"]["trunk"]}}
    save_weights(tmp_path / "headless", trunk, About("tiny", 0.4, 0.3, "file.pth", 32))
    with pytest.raises(CheckpointError, match=r"without a head.*\n.*init_from=.*headless"):
        Classifier.from_checkpoint(tmp_path / "headless")


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e38])
def test_a_film_without_a_number_is_refused(
    classifier: Classifier, films: dict[str, Path], number: float, recwarn: pytest.WarningsRecorder
) -> None:
    """Of weights that are no numbers, or overflow."""
    broken = classifier.at_batch_size(classifier.batch_size)
    broken._variables = jax.tree.map(lambda array: array * np.float32(number), classifier._variables)
    for found in (*broken.predict([films["0.png"]]), *broken.predict([films["0.png"]], True)):
        assert found.verdict.status == "refused"
        assert found.verdict.reasons[-1] == "the networks give no number for it"
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


def test_a_file_of_torch_predicts_as_torch_does(films: dict[str, Path], tmp_path: Path) -> None:
    """From a `.pth` to probabilities in two commands' work, at ImageNet's size and normalisation."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")
    from tests.torch_networks import create_torch_network, shake

    network = shake(create_torch_network("resnet18")).eval()
    torch.save(network.state_dict(), tmp_path / "resnet.pth")
    import_file("resnet18", tmp_path / "resnet.pth", tmp_path / "imported")
    prediction = Classifier.from_checkpoint(tmp_path / "imported", batch_size=1).predict(films["0.png"])[0]
    grey = shrink(prediction.film, 224)[..., None] / 255
    x = torch.tensor(((grey - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)[None], dtype=torch.float32)
    with torch.no_grad():
        expected = torch.sigmoid(network(x))[0].numpy()
    np.testing.assert_allclose(prediction.probabilities, expected, rtol=1e-4)
    assert np.ptp(expected) > 0.05


def test_an_iterator_is_streamed_a_batch_at_a_time(classifier: Classifier, films: dict[str, Path]) -> None:
    read: list[str] = []

    def paths() -> Iterator[Path]:
        for path in films.values():
            read.append(path.name)
            yield path

    found = classifier.predict(paths())
    assert read == []
    first = next(found)
    assert len(read) == classifier.batch_size < len(films)
    names = [first.name, *(prediction.name for prediction in found)]
    assert names == list(films)


def test_probabilities_only_are_those_beside_the_maps(classifier: Classifier, films: dict[str, Path]) -> None:
    alone = classifier.predict(films.values(), probabilities_only=True)
    for scores, prediction in zip(alone, classifier.predict(films.values()), strict=True):
        assert type(scores) is Scores
        assert not hasattr(scores, "maps")
        np.testing.assert_allclose(scores.probabilities, prediction.probabilities, rtol=1e-5)
        assert scores.ranked == prediction.ranked
        assert scores.called == prediction.called


@pytest.fixture(scope="module")
def trusted(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir with a Platt curve for each finding of the ensemble, and a domain of noise for each network."""
    copy = tmp_path_factory.mktemp("trusted") / "run"
    shutil.copytree(workdir, copy)
    restored = restore_best(copy)
    curves = tuple(Curve("platt", slope=0.5 + 0.1 * k, offset=0.3 - 0.1 * k) for k in range(14))
    bands = Bands.fit(np.eye(14, dtype=np.float32), np.full((14, 14), 0.5))
    noise = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 1), np.uint8)
    x = (noise.astype(np.float32) / 255 - 0.4) / 0.3
    domains = {}
    for name, model in restored.models.items():
        features = np.asarray(jax.jit(partial(see, model))(restored.variables[name], x)[1])
        posed = np.stack([features[:60]] * 6, axis=1)
        posed = posed + np.random.default_rng(1).normal(0, 1e-3, posed.shape)
        domain = Domain.fit(features[:200], posed, features[200:])
        assert domain
        domains[name] = dataclasses.replace(domain, pose_limit=1e9)
    write_trust(restored, Trust({"ensemble": Calibration(curves, (0.2,) * 14)}, {"ensemble": bands}, domains))
    return copy


def test_calibration_changes_numbers_and_no_calls(trusted: Path, films: dict[str, Path]) -> None:
    path = films["0.png"]
    (raw,) = Classifier.from_checkpoint(trusted, raw=True).predict(path)
    (calibrated,) = Classifier.from_checkpoint(trusted).predict(path)
    k = np.arange(14)
    for before, after in ((raw.probabilities, calibrated.probabilities), (raw.thresholds, calibrated.thresholds)):
        np.testing.assert_allclose(after, expit((0.5 + 0.1 * k) * logit(before) + 0.3 - 0.1 * k), rtol=1e-6)
    assert set(raw.called) == set(calibrated.called)
    assert 0 < len(raw.called) < 14
    (elsewhere,) = Classifier.from_checkpoint(trusted, prevalence={"Mass": 0.5}).predict(path)
    mass = FINDINGS.index("Mass")
    odds = [p.probabilities / (1 - p.probabilities) for p in (elsewhere, calibrated)]
    np.testing.assert_allclose(odds[0] / odds[1], np.where(k == mass, 4.0, 1.0), rtol=1e-6)  # from 1 in 5 to 1 in 2


def test_a_prevalence_without_a_calibration_is_refused(workdir: Path, trusted: Path) -> None:
    with pytest.raises(ConfigError, match="the evaluation of a run fits it"):
        Classifier.from_checkpoint(workdir, prevalence={"Mass": 0.5})
    with pytest.raises(ConfigError, match="raw ones were asked for"):
        Classifier.from_checkpoint(trusted, raw=True, prevalence={"Mass": 0.5})


def test_a_film_unlike_those_of_the_training_is_doubtful(trusted: Path, workdir: Path) -> None:
    """The networks "were trained" on noise: more of it is as expected, a ramp is not."""
    noise = np.random.default_rng(5).integers(0, 256, (32, 32), np.uint8)
    noise = np.kron(noise, np.ones((6, 6), np.uint8))
    ramp = np.linspace(0, 255, 192).astype(np.uint8)[None].repeat(192, axis=0)
    recipe = {"clean": False}
    restored = restore_best(trusted)
    restored.config.data.update(recipe)  # cleaning would smooth the noise
    classifier = Classifier(restored, np.full(14, 0.5), batch_size=4)
    for probabilities_only in (False, True):
        usual, strange = classifier.predict([noise, ramp], probabilities_only)
        assert usual.verdict.status == "ok"
        assert usual.distance < 1.0
        assert strange.verdict.status == "doubtful"
        assert strange.distance > 1.0
        assert any("unlike the training films" in reason for reason in strange.verdict.reasons)
    (unknown,) = Classifier.from_checkpoint(workdir).predict(noise)
    assert np.isnan(unknown.distance)


def test_a_small_film_and_one_of_few_levels_are_doubted_in_every_form(classifier: Classifier, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(100, 140, (48, 48), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "film.png")
    for film in (pixels, Image.fromarray(pixels), tmp_path / "film.png"):
        (found,) = classifier.predict(film)
        assert found.verdict.status == "doubtful"
        assert len(found.verdict.reasons) == 2
