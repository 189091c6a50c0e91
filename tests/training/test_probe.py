"""The probe against a penalised likelihood minimised by SciPy, and its command end to end."""

import io
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score

from chexjax.commands import probe as command
from chexjax.data.prepared import Prepared, prepare
from chexjax.data.recipe import Recipe
from chexjax.errors import CheckpointError, ConfigError
from chexjax.evaluation.predictions import read_predictions
from chexjax.models import create_model
from chexjax.models.torch_weights import About, save_weights
from chexjax.training import probe
from chexjax.workdir.restore import restore_best
from tests.untrained import save_untrained


@pytest.fixture(scope="module")
def films(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(phantom_folder, tmp_path_factory.mktemp("films"), Recipe(size=32), progress=False)


def penalised(x: np.ndarray, y: np.ndarray, c: float) -> np.ndarray:
    """Weights and intercept that minimise |w|^2 / 2 + C * sum of log losses (scikit-learn's user guide, 1.1.11)."""

    def objective(w: np.ndarray) -> float:
        return w[:-1] @ w[:-1] / 2 + c * np.logaddexp(0, -(2 * y - 1) * (x @ w[:-1] + w[-1])).sum()

    return minimize(objective, np.zeros(x.shape[1] + 1), tol=1e-9).x


def test_the_fit_is_the_minimum_and_the_penalty_is_chosen_on_validation() -> None:
    rng = np.random.default_rng(0)
    sizes, truth = (120, 80, 40), rng.normal(size=(3, 2))
    features = [rng.normal(5.0, [1.0, 10.0, 0.1], (n, 3)) for n in sizes]
    scaled = [(x - features[0].mean(axis=0)) / features[0].std(axis=0) for x in features]
    labels = [(x @ truth + rng.logistic(size=(len(x), 2)) > 0).astype(np.float32) for x in scaled]
    labels[0][rng.random((120, 2)) < 0.2] = np.nan
    labels[0][:3, 0] = 0.5  # soft
    found = probe.fit(features, labels[:2], penalties=(1e-3, 1e-1))
    expected, figures = {}, {}
    for c in (1e-3, 1e-1):
        columns = []
        for k in range(2):
            hard = np.isin(labels[0][:, k], (0, 1))
            w = penalised(scaled[0][hard], labels[0][hard, k], c)
            columns.append([1 / (1 + np.exp(-(x @ w[:-1] + w[-1]))) for x in scaled[1:]])
        validation, expected[c] = (np.stack(part, axis=1) for part in zip(*columns, strict=True))
        figures[c] = np.mean([roc_auc_score(labels[1][:, k], validation[:, k]) for k in range(2)])
    assert found.validation == pytest.approx(figures, abs=2e-3)  # two films may swap ranks
    assert found.penalty == max(figures, key=figures.get)
    np.testing.assert_allclose(found.probabilities, expected[found.penalty], atol=1e-4)


def test_a_finding_without_two_classes_gets_its_share() -> None:
    x = np.random.default_rng(1).normal(size=(20, 2))
    labels = np.stack([np.zeros(20), np.full(20, np.nan), np.arange(20) % 2], axis=1)
    found = probe.fit([x, x, x], [labels, labels]).probabilities
    np.testing.assert_array_equal(found[:, :2], np.tile([0.0, 0.5], (20, 1)))
    assert np.ptp(found[:, 2]) > 0


def test_the_command_probes_a_workdir(films: Prepared, small_baseline, tmp_path: Path, monkeypatch, capsys) -> None:
    workdir = save_untrained(small_baseline, tmp_path / "run")
    out = tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", ["probe", f"--weights={workdir}", f"--films={films.path}", "--batch_size=8", f"--out={out}"]
    )
    command.main()
    printed = capsys.readouterr().out
    table = read_predictions(out / "predictions.csv", films.findings)
    assert table.names == films.parts["test"].names
    restored = restore_best(workdir)
    (model,), (variables,) = restored.models.values(), restored.variables.values()
    data = restored.config.data
    features, source = {}, {part: films.source(part) for part in probe.PARTS}
    for part, records in source.items():
        pixels = np.stack([pixels_of(records[k]) for k in range(len(films.parts[part].names))])
        x = (pixels[..., None].astype(np.float32) / 255 - data.mean) / data.std
        features[part] = np.asarray(model.apply(variables, x, method="features")).mean(axis=(1, 2))
    expected = probe.fit(list(features.values()), [films.parts[part].labels for part in ("train", "val")])
    np.testing.assert_allclose(table.probabilities, expected.probabilities, atol=1e-4)
    labels = films.parts["test"].labels
    areas = [roc_auc_score(y, p) for y, p in zip(labels.T, table.probabilities.T, strict=True) if np.ptp(y)]
    assert f"{np.mean(areas):.4f} (" in printed


def pixels_of(record: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(record["image"])))


def test_weights_that_lack_a_stage_are_probed_before_it_and_refused_behind_it(tmp_path: Path) -> None:
    model = create_model("tiny2")
    x = np.random.default_rng(2).normal(size=(2, 64, 64, 1)).astype(np.float32)
    variables = jax.tree.map(np.asarray, dict(model.init(jax.random.key(0), x)))
    whole = variables["params"]["trunk"]
    kept = {name: leaf for name, leaf in whole.items() if not name.startswith("layer2")}
    kept["conv1"] = kept["conv1"] | {"offset": np.full_like(kept["conv1"]["kernel"], 0.1)}
    stats = {name: leaf for name, leaf in variables["batch_stats"]["trunk"].items() if not name.startswith("layer2")}
    weights = {"params": {"trunk": kept}, "batch_stats": {"trunk": stats}}
    save_weights(tmp_path / "weights", weights, About("tiny2", 0.4, 0.3, "x.pth", fresh=("layer2.0.conv1.weight",)))
    frozen = probe.open_trunk(tmp_path / "weights", stages=1)
    assert (frozen.mean, frozen.std) == (0.4, 0.3)
    whole["conv1"]["offset"] = kept["conv1"]["offset"]
    expected = create_model("tiny2").trunk.clone(end=1).apply({**frozen.variables, "params": whole}, x)
    np.testing.assert_array_equal(frozen.trunk.apply(frozen.variables, x), expected)
    for stages in (0, 2):
        with pytest.raises(CheckpointError, match=r"lacks arrays of tiny2.*layer2_0.*\n.*--stages=N"):
            probe.open_trunk(tmp_path / "weights", stages)
    with pytest.raises(ConfigError, match="--stages is 3; tiny2 has 2"):
        probe.open_trunk(tmp_path / "weights", 3)
