"""Two small networks with thresholds, and films for them."""

import dataclasses
import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from PIL import Image

from chexjax.configs import dml
from chexjax.data.sources.phantom import ARTIFACTS, plan_films, render_film
from chexjax.findings import FINDINGS
from chexjax.predict import Classifier
from chexjax.training.state import create_network, create_state
from chexjax.workdir.checkpoints import Checkpoints
from chexjax.workdir.config import claim_workdir

THRESHOLDS = {finding: {"youden": 0.05 * k} for k, finding in enumerate(FINDINGS, start=1)}


@pytest.fixture(scope="session")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small networks, trained on cleaned films by their config, that have never seen one; with thresholds."""
    config = dml.get_config()
    for name in config.networks:
        config.networks[name].update({"model": "tiny", "width": 0.125})
    config.data.update({"size": 32, "clean": True, "mean": 0.4, "std": 0.3})
    return save(config, tmp_path_factory.mktemp("run"))


def save(config: ConfigDict, workdir: Path) -> Path:
    claim_workdir(workdir, config)
    models = {name: create_network(config, name, len(FINDINGS)) for name in config.networks}
    states = {name: create_state(config, name, model, (32, 32, 1), 1) for name, model in models.items()}
    checkpoints = Checkpoints(workdir, writing=True)
    checkpoints.save(3, states, 0.5, {"groups": None, "history": []})
    results = {"step": 3, "networks": {"ensemble": {"thresholds": THRESHOLDS}}}
    (workdir / "metrics.json").write_text(json.dumps(results))
    return workdir


@pytest.fixture(scope="session")
def classifier(workdir: Path) -> Classifier:
    return Classifier.from_checkpoint(workdir, batch_size=4)


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Simulated films with artefacts, of three shapes."""
    folder = tmp_path_factory.mktemp("films")
    for number, (film, size) in enumerate(zip(plan_films(5, seed=3), (256, 256, 200, 300, 64), strict=True)):
        pixels, _ = render_film(dataclasses.replace(film, artifacts=ARTIFACTS), size)
        Image.fromarray(pixels[: size - 20 * number]).save(folder / f"{number}.png")
    return {path.name: path for path in sorted(folder.iterdir())}
