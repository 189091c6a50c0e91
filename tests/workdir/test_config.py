"""The workdir's config: what an earlier version left still opens, and what differs is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from chexjax.data.recipe import Recipe, recipe_of
from chexjax.errors import CheckpointError, ConfigError
from chexjax.files import write_manifest
from chexjax.workdir.config import CONFIG, check_config, claim_workdir, read_config
from chexjax.workdir.restore import restore_best, restore_others
from tests.untrained import save_untrained

LATER = ("enlarge", "threshold", "max_width", "edge_span", "axes", "spare_wide")


def rewrite(path: Path, **data: Any) -> None:
    """Sets fields of `config.data` in a config.json; None takes them out."""
    fields = json.loads(path.read_text())
    for name, value in data.items():
        fields["data"].pop(name) if value is None else fields["data"].update({name: value})
    path.write_text(json.dumps(fields))


@pytest.fixture
def old(small_baseline: ConfigDict, tmp_path: Path) -> Path:
    """A workdir as it was before there were fields for how films are cleaned and enlarged."""
    small_baseline.data.clean = True
    workdir = save_untrained(small_baseline, tmp_path / "old")
    for path in (workdir / CONFIG, *(workdir / "checkpoints").glob(f"*/{CONFIG}")):
        rewrite(path, **dict.fromkeys(LATER))
    for step in (workdir / "checkpoints").iterdir():
        write_manifest(step)
    return workdir


def test_an_old_workdir_opens_and_cleans_as_it_always_did(old: Path, small_baseline: ConfigDict) -> None:
    assert not set(LATER) & json.loads((old / CONFIG).read_text())["data"].keys()
    restored = restore_best(old)
    cleaning = {"threshold": 50, "max_width": 40, "edge_span": 1, "axes": "rows", "spare_wide": False}
    expected = Recipe(size=32, enlarge="area", clean=True, **cleaning)
    assert recipe_of(restored.config.data) == expected
    with pytest.raises(CheckpointError, match=r"differs in 1: data\.enlarge: 'area' then, 'bicubic' now"):
        check_config(old, small_baseline)
    small_baseline.data.enlarge = "area"
    check_config(old, small_baseline)
    claim_workdir(old, small_baseline)  # a run would go on in it
    assert restore_others(str(old), "teacher", small_baseline).step == restored.step


def test_an_old_workdir_is_another_where_films_are_cleaned_otherwise(old: Path, small_baseline: ConfigDict) -> None:
    small_baseline.data.update({"axes": "columns", "enlarge": "area"})
    with pytest.raises(CheckpointError, match=r"differs in 1: data\.axes: 'rows' then, 'columns' now"):
        check_config(old, small_baseline)
    with pytest.raises(ConfigError, match=r"data\.axes=rows, this run has data\.axes=columns"):
        restore_others(str(old), "teacher", small_baseline)
    small_baseline.data.clean = False
    with pytest.raises(ConfigError, match=r"data\.clean=True, this run has data\.clean=False"):
        restore_others(str(old), "teacher", small_baseline)


@pytest.mark.parametrize(
    "data",
    [{"threshold": 0}, {"max_width": "wide"}, {"edge_span": 10**9}, {"axes": 3}, {"axes": "depth"}, {"size": None}],
)
def test_a_workdir_whose_films_cannot_be_made_is_refused_in_a_line(old: Path, data: dict[str, Any]) -> None:
    for step in (old / "checkpoints").iterdir():
        rewrite(step / CONFIG, **data)
        write_manifest(step)
    with pytest.raises(CheckpointError, match="another version of chexjax") as raised:
        restore_best(old)
    assert "\n" not in str(raised.value)


def test_fields_that_were_always_there_are_not_guessed(old: Path, small_baseline: ConfigDict) -> None:
    rewrite(old / CONFIG, mean=None)
    assert "mean" not in read_config(old).data
    with pytest.raises(CheckpointError, match=r"data\.mean: 'absent' then, 0\.5 now"):
        check_config(old, small_baseline)


def test_a_config_that_was_cut_is_told_from_another(old: Path, small_baseline: ConfigDict) -> None:
    cut = {name: small_baseline.to_dict()[name] for name in ("regime", "networks")}
    (old / CONFIG).write_text(json.dumps(cut))
    with pytest.raises(CheckpointError, match=r"more\)\nconfig\.json lacks what every run writes; bring the run's own"):
        check_config(old, small_baseline)
