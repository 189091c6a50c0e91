"""The study runner: what it composes, its table against figures by hand, and a small study run twice."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from absl.testing import flagsaver

from chexjax import study as study_module
from chexjax.commands import study as command
from chexjax.configs import baseline, study
from chexjax.data.prepared import Part
from chexjax.errors import ChexjaxError, ConfigError
from chexjax.evaluation.metrics import compare_runs
from chexjax.evaluation.predictions import write_predictions
from chexjax.evaluation.published import published
from chexjax.findings import FINDINGS
from chexjax.study import chosen, compare, compose, format_table, mean_and_std, rows, run


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


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("every.seed", 3, "config.seeds"),
        ("every.regime", "mutual", "config.cells.NAME.regime"),
        ("network.model", "resnet50", "config.cells.NAME.models"),
        ("network.shared_stages", 2, "config.cells.NAME.shared_stages"),
        ("every.teacher", "t.csv", "config.cells.distilled.teacher"),
    ],
)
def test_what_each_cell_has_for_itself_is_refused_for_all(
    field: str, value: object, place: str, tmp_path: Path
) -> None:
    config = study.get_config()
    part, name = field.split(".")
    with config[part].ignore_type():
        config[part][name] = value
    with pytest.raises(ConfigError, match=rf"config\.{field}=.* changes nothing: {place} counts"):
        compose(config, "distilled", 1, tmp_path)


def test_all_cells_may_be_cleaned(tmp_path: Path) -> None:
    config = study.get_config()
    config.every.data.clean = True
    assert compose(config, "resnet18", 1, tmp_path).data.clean


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


def test_cells_are_compared_with_the_first_seed_by_seed_and_film_by_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, rng = study.get_config(), np.random.default_rng(3)
    names = tuple(f"{k:03}_000.png" for k in range(90))
    labels = (rng.random((90, 14)) < 0.4).astype(np.float32)
    part = Part(names, tuple(name[:2] for name in names), labels)
    monkeypatch.setattr(study_module, "open_films", lambda data: SimpleNamespace(parts={"test": part}))
    scores: dict[tuple[str, str], list[np.ndarray]] = {}
    for cell, network, signal in (("resnet18", "net1", 0.5), ("twins", "net1", 0.5), ("twins", "net2", 1.5)):
        for seed in (1, 2):
            each = 1 / (1 + np.exp(-(signal * labels + rng.normal(size=labels.shape))))
            scores.setdefault((cell, network), []).append(each)
            (tmp_path / cell / f"seed-{seed}").mkdir(parents=True, exist_ok=True)
            backwards = slice(None, None, -1)  # a CSV may have another order of films than the split
            write_predictions(
                tmp_path / cell / f"seed-{seed}" / f"predictions_{network}.csv",
                names[backwards],
                each[backwards],
                FINDINGS,
            )
    single, twins = [fake({"net1": 0.7}) for _ in range(2)], [fake({"net1": 0.7, "net2": 0.8}) for _ in range(2)]
    twins[0]["networks"]["net2"]["convergence_epoch"] = 3.5
    twins[1]["networks"]["net1"]["convergence_epoch"] = None
    found = {"resnet18": single, "twins": twins}
    compared = compare(config, found, tmp_path)
    assert list(compared) == [("twins", "net1"), ("twins", "net2")]
    expected = compare_runs(
        labels, np.stack(scores["twins", "net2"]), np.stack(scores["resnet18", "net1"]), part.patients
    )
    better = compared["twins", "net2"]
    assert (better["difference"], better["p_value"]) == (expected.difference, expected.p_value)
    assert better["interval"] == [expected.low, expected.high]
    assert better["difference"] > 0.1
    assert (better["epochs"], compared["twins", "net1"]["epochs"]) == ([1.5, 0.0], [0.0, None])
    study_module.write(tmp_path, config, found, compared)
    text = (tmp_path / "study.md").read_text()
    assert f"| twins | net2 | 2 | {expected.difference:+.4f} ({expected.low:+.3f} to" in text
    assert "| +1.5, +0.0 |" in text
    assert "| +0.0, n/a |" in text
    assert json.loads((tmp_path / "study.json").read_text())[2]["against_first"] == better
    undefined = {**better, "difference": None, "interval": None, "p_value": None}
    assert "| n/a | n/a | +1.5, +0.0 |" in study_module.format_comparison({("twins", "net2"): undefined})
    write_predictions(tmp_path / "twins" / "seed-2" / "predictions_net2.csv", names[1:], each[1:], FINDINGS)
    with pytest.raises(ChexjaxError, match=r"seed-2/predictions_net2\.csv is not of the test films of this study"):
        compare(config, found, tmp_path)


def test_a_small_study_runs_once_and_is_read_the_second_time(
    phantom_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = study.get_config()
    config.every.data.update({"source": "chestxray14", "dir": str(phantom_folder), "cache": str(tmp_path / "cache")})
    config.every.data.update({"size": 32, "val_fraction": 0.3})
    config.every.update({"batch_size": 8, "max_steps": 1})
    config.network.update({"width": 0.125, "schedule": "constant"})
    config.cells.resnet18.models = ("tiny",)
    found = run(config, "resnet18", 2, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "resnet18" / "seed-2" / "config.json").read_text())["seed"] == 2
    from chexjax.training import loop

    monkeypatch.setattr(loop, "train", lambda *args: pytest.fail("trains again"))
    assert run(config, "resnet18", 2, tmp_path / "out") == found
    study_module.write(tmp_path / "out", config, {"resnet18": [found]})
    assert json.loads((tmp_path / "out" / "study.json").read_text())[0]["seeds"] == 1
    assert compare(config, {"resnet18": [found]}, tmp_path / "out") == {}
    for cell in ("resnet18", "cleaned"):  # the same run twice
        (tmp_path / "out" / cell).mkdir(exist_ok=True)
        (tmp_path / "out" / cell / "seed-1").symlink_to(tmp_path / "out" / "resnet18" / "seed-2")
    twice = {"resnet18": [found], "cleaned": [found]}
    assert compare(config, twice, tmp_path / "out")["cleaned", "net1"]["difference"] == 0
    for name, value in {"views": "flip", "max_steps": 2}.items():  # which may change: then the run goes on
        other = copy.deepcopy(config)
        other.every[name] = value
        again = []
        with monkeypatch.context() as patched:
            patched.setattr(loop, "train", lambda *args, again=again: again.append("trained"))
            patched.setattr(loop, "evaluate", lambda *args, again=again: again.append("evaluated"))
            run(other, "resnet18", 2, tmp_path / "out")
        assert again == ["trained", "evaluated"]
    config.every.batch_size = 4
    with pytest.raises(ChexjaxError, match=r"resnet18, seed 2: .*batch_size: 8 then, 4 now"):
        run(config, "resnet18", 2, tmp_path / "out")


def test_the_command_runs_every_seed_of_every_cell_and_prints_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, aurocs = [], {1: 0.7, 2: 0.8}

    def run_one(config: object, cell: str, seed: int, out: Path) -> dict:
        asked.append((cell, seed, out))
        return fake({"net1": aurocs[seed]})

    def do_not_compare(*_: object) -> None:
        raise ChexjaxError("predictions_net1.csv is gone")

    monkeypatch.setattr(study_module, "run", run_one)
    monkeypatch.setattr(study_module, "compare", do_not_compare)
    with flagsaver.as_parsed(config=study.__file__, workdir=str(tmp_path)):
        command.CONFIG.value.update({"only": "resnet18,cleaned", "seeds": 2})
        command.run_all(["study"])
        with pytest.raises(SystemExit):
            command.run_all(["study", "twins"])
    assert asked == [(cell, seed, tmp_path) for seed in (1, 2) for cell in ("resnet18", "cleaned")]
    told = capsys.readouterr()
    assert "| cleaned | net1 | m | 2 | 0.7500 (0.0707) |" in told.out
    assert told.out.endswith((tmp_path / "study.md").read_text())
    assert "the cells are not compared: predictions_net1.csv is gone" in told.err
    assert "unexpected argument 'twins'" in told.err
