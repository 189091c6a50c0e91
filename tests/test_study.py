"""The study runner: what it composes, its table against figures by hand, and a small study run twice."""

import json
from pathlib import Path

import numpy as np
import pytest

from chexjax import study as study_module
from chexjax.configs import baseline, study
from chexjax.errors import ChexjaxError, ConfigError
from chexjax.evaluation.published import published
from chexjax.findings import FINDINGS
from chexjax.study import chosen, compose, format_table, mean_and_std, rows, run


def test_a_cell_is_the_run_that_its_own_config_file_describes(tmp_path: Path) -> None:
    config = study.get_config()
    config.every.epochs, config.network.width = 5, 0.5
    found = compose(config, "resnet50", 2, tmp_path)
    expected = baseline.get_config("resnet50")
    expected.update({"seed": 2, "epochs": 5})
    expected.networks.net1.width = 0.5
    assert found.to_dict() == expected.to_dict()
    pair = compose(config, "pair", 1, tmp_path)
    assert (pair.regime, [network.model for network in pair.networks.values()]) == ("mutual", ["resnet18", "resnet50"])
    assert compose(config, "specialists", 1, tmp_path).networks.net1.shared_stages == 0
    assert compose(config, "cleaned", 1, tmp_path).data.clean
    assert compose(config, "distilled", 3, tmp_path).teacher == str(tmp_path / "resnet50" / "seed-3")


def test_teachers_run_before_their_students() -> None:
    config = study.get_config()
    config.only = "distilled,resnet50"
    assert chosen(config) == ["resnet50", "distilled"]
    config.only = "distilled"
    with pytest.raises(ConfigError, match="distilled learns from resnet50"):
        chosen(config)
    config.only = "twin"
    with pytest.raises(ConfigError, match=r"names twin; there are .*twins"):
        chosen(config)
    with pytest.raises(ConfigError, match=r"configs/study\.py"):
        chosen(baseline.get_config())


def test_spread_is_the_samples() -> None:
    found = mean_and_std([0.7, None, 0.8, 0.75])
    assert found["mean"] == pytest.approx(0.75)
    assert found["sd"] == pytest.approx(np.std([0.7, 0.8, 0.75], ddof=1))
    assert mean_and_std([0.7])["sd"] is None
    assert mean_and_std([None])["mean"] is None


def fake(figures: dict[str, float]) -> dict:
    """A metrics.json whose every AUROC is the network's."""
    networks = {
        name: {"model": "m", "mean_auroc": a, "auroc": dict.fromkeys(FINDINGS, a), "convergence_epoch": 2.0}
        for name, a in figures.items()
    }
    return {"split_source": "official", "films": 10, "networks": networks}


def test_the_table_has_mean_and_spread_beside_the_reports_column() -> None:
    config = study.get_config()
    found = {
        "twins": [fake({"net1": 0.7, "net2": 0.6, "ensemble": 0.8}), fake({"net1": 0.8, "net2": 0.6, "ensemble": 0.8})]
    }
    first, second, ensemble = rows(config, found)
    columns = published()["report"]["columns"]
    assert first["report"]["mean"] == columns["DML twins: 1st ResNet18"]["mean"]
    assert second["report"]["mean"] == columns["DML twins: 2nd ResNet18"]["mean"]
    assert ensemble["report"]["mean"] is None
    table = format_table(config, found)
    assert "| twins | net1 | m | 2 | 0.7500 (0.0707) | 2.0 (0.0) | 0.8080 | 10 |" in table
    assert "| Hernia | 0.750 (0.071) / 0.908 | 0.600 (0.000) / 0.882 | 0.800 (0.000) |" in table


def test_findings_that_the_report_does_not_have_stand_alone() -> None:
    entry = {"model": "m", "mean_auroc": 0.7, "auroc": {"Rust": 0.7, "Hernia": 0.6}, "convergence_epoch": 2.0}
    one = {"split_source": "own", "films": 10, "networks": {"net1": entry, "net2": entry}}
    lines = format_table(study.get_config(), {"twins": [one]}).splitlines()
    assert "| Rust | 0.700 | 0.700 |" in lines
    assert "| Hernia | 0.600 / 0.908 | 0.600 / 0.882 |" in lines
    assert not any(line.startswith("| Mass") for line in lines)


def test_a_small_study_runs_once_and_is_read_the_second_time(
    phantom_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = study.get_config()
    config.every.data.update({"source": "chestxray14", "dir": str(phantom_folder), "cache": str(tmp_path / "cache")})
    config.every.data.update({"size": 32, "val_fraction": 0.3})
    config.every.update({"batch_size": 8, "max_steps": 1})
    config.network.width = 0.125
    config.cells.resnet18.models = ("tiny",)
    found = run(config, "resnet18", 2, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "resnet18" / "seed-2" / "config.json").read_text())["seed"] == 2
    from chexjax.training import loop

    monkeypatch.setattr(loop, "train", lambda *args: pytest.fail("trains again"))
    assert run(config, "resnet18", 2, tmp_path / "out") == found
    study_module.write(tmp_path / "out", config, {"resnet18": [found]})
    assert json.loads((tmp_path / "out" / "study.json").read_text())[0]["seeds"] == 1
    config.every.batch_size = 4
    with pytest.raises(ChexjaxError, match=r"resnet18, seed 2: .*batch_size: 8 then, 4 now"):
        run(config, "resnet18", 2, tmp_path / "out")
