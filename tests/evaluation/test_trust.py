"""What an evaluation fits and keeps: read back for the same checkpoint alone, and summed up as a plain loop does."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.metrics import log_loss

from chexjax.commands import check_maps
from chexjax.errors import CheckpointError
from chexjax.evaluation import trust as fitting
from chexjax.evaluation.metrics import expected_calibration_error
from chexjax.explain import check
from chexjax.findings import FINDINGS
from chexjax.training import loop
from chexjax.trust.features import POSES
from chexjax.trust.kept import CALIBRATION, DOMAIN, Trust, read_trust
from chexjax.workdir.restore import Restored, restore_best


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, phantom_folder: Path) -> Path:
    """The workdir of a short run on simulated films, evaluated."""
    from chexjax.configs import common
    from tests.conftest import shrink

    config: ConfigDict = shrink(common.base())
    folder = tmp_path_factory.mktemp("trust")
    config.data.update({"source": "chestxray14", "dir": str(phantom_folder), "cache": str(folder), "val_fraction": 0.4})
    config.max_steps = 2
    loop.train(config, folder / "run")
    loop.evaluate(config, folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def restored(run: Path) -> Restored:
    return restore_best(run)


def test_what_was_fitted_is_read_back_and_agrees_with_the_results(run: Path, restored: Restored) -> None:
    trust = read_trust(restored)
    assert set(trust.calibrations) == set(trust.bands) == set(trust.domains) == {"net1"}
    found = json.loads((run / "metrics.json").read_text())["trust"]
    kinds = [found["calibration"]["net1"][finding]["kind"] for finding in FINDINGS]
    assert kinds == [curve.kind for curve in trust.calibrations["net1"].curves]
    bands = found["abstaining"]["networks"]["net1"]
    assert [bands[finding]["high"] for finding in FINDINGS] == trust.bands["net1"].high.tolist()
    gate = found["gate"]["net1"]
    assert list(gate["poses"]) == list(POSES)[1:]
    assert all(0 <= entry["named"] <= entry["held_up"] <= 1 for entry in gate["poses"].values())
    page = (run / "report.html").read_text()
    assert "turned by 180 degrees" in page
    assert "net1, calibrated" in page


def test_the_figures_before_and_after_are_those_of_the_predictions(run: Path, restored: Restored) -> None:
    trust = read_trust(restored)
    config = restored.config
    again = loop.evaluate(config, run)
    labels, p = again.films.labels, again.probabilities["net1"]
    found = json.loads((run / "metrics.json").read_text())["trust"]["calibration"]["net1"]
    after = trust.calibrations["net1"].apply(p)
    for k, finding in enumerate(FINDINGS):
        for row_index, shown in enumerate((p, after)):
            assert found[finding]["log_loss"][row_index] == pytest.approx(
                log_loss(labels[:, k], shown[:, k], labels=[0, 1]), rel=1e-6
            )
            expected = expected_calibration_error(labels[:, k], shown[:, k])
            assert found[finding]["expected_calibration_error"][row_index] == pytest.approx(expected)


def test_the_gate_is_fitted_once_for_a_checkpoint(run: Path, restored: Restored, monkeypatch) -> None:
    kept, report = read_trust(restored), json.loads((run / "metrics.json").read_text())["trust"]["gate"]
    passed: list[tuple[str, int, bool]] = []
    features = fitting._features

    def counted(best, variables, films, split, most, posed, bar):
        passed.append((split, most, posed))
        return features(best, variables, films, split, most, posed, bar)

    monkeypatch.setattr(fitting, "_features", counted)
    loop.evaluate(restored.config, run)
    assert not passed
    assert json.loads((run / "metrics.json").read_text())["trust"]["gate"] == report
    loop.evaluate(restored.config, run, "val")
    assert passed == [("val", fitting.MEASURED, True)]  # the gate is measured on other films, not fitted anew
    np.testing.assert_equal(read_trust(restored).domains["net1"].to_arrays(), kept.domains["net1"].to_arrays())
    (run / DOMAIN).write_bytes(b"broken")
    loop.evaluate(restored.config, run)
    assert passed[1:] == [
        ("train", fitting.TRAINING, False), ("train", fitting.POSED, True), ("val", fitting.HELD_OUT, False),
        ("test", fitting.MEASURED, True),
    ]  # fmt: skip
    np.testing.assert_equal(read_trust(restored).domains["net1"].to_arrays(), kept.domains["net1"].to_arrays())


def test_of_another_checkpoint_or_none_nothing_is_believed(run: Path, restored: Restored, tmp_path: Path) -> None:
    assert read_trust(replace(restored, step=restored.step + 1)) == Trust()
    digests = {"networks": {**restored.metadata["sha256"]["networks"], "net1/params/head/bias": "0" * 64}}
    assert read_trust(replace(restored, metadata={**restored.metadata, "sha256": digests})) == Trust()
    assert read_trust(replace(restored, workdir=tmp_path)) == Trust()  # a workdir of before
    assert read_trust(replace(restored, workdir=tmp_path, metadata={"findings": list(FINDINGS)})) == Trust()


@pytest.mark.parametrize("name", [CALIBRATION, DOMAIN])
@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: b"", lambda data: b"[" * 5000])
def test_a_broken_file_is_refused_and_says_what_to_do(run: Path, restored: Restored, tmp_path: Path, name, damage):
    for other in (CALIBRATION, DOMAIN):
        (tmp_path / other).write_bytes((run / other).read_bytes())
    (tmp_path / name).write_bytes(damage((run / name).read_bytes()))
    with pytest.raises(CheckpointError, match="--mode=evaluate"):
        read_trust(replace(restored, workdir=tmp_path))


def test_nothing_that_is_written_is_nan(run: Path) -> None:
    def numbers(tree: object) -> list[float]:
        children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
        own = [tree] if isinstance(tree, float) else []
        return own + [number for child in children for number in numbers(child)]

    for name in ("metrics.json", CALIBRATION):
        assert all(map(math.isfinite, numbers(json.loads((run / name).read_text()))))
    with np.load(run / DOMAIN) as file:
        assert all(np.isfinite(file[key]).all() for key in file.files if file[key].dtype.kind == "f")


def test_maps_are_checked_and_the_report_shows_it(run: Path, restored: Restored, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["check", f"--checkpoint={run}", "--cases=6", "--maps=cam,grad_cam"])
    check_maps.main()
    shown = capsys.readouterr().out.splitlines()
    found = check.read_check(run, restored.step)
    assert found is not None
    assert list(found["maps"]) == ["net1, cam", "net1, grad_cam", check.RANDOM, check.CENTRE]
    assert found["cases"] == 6
    assert 0.0 <= found["maps"]["net1, cam"]["all_anew"] <= 1.0
    assert len([line for line in shown if "map not " not in line]) == 6
    assert "net1, cam, Hernia: map not tested: too few boxes of this finding" in shown
    loop.evaluate(restored.config, run)
    assert "May the maps be believed?" in (run / "report.html").read_text()
    assert json.loads((run / "metrics.json").read_text())["maps"] == found
    assert check.read_check(run, restored.step + 1) is None
