"""The self-test passes on a sound install, and fails wherever something is off."""

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from chexjax.commands.self_test import run
from chexjax.data import recipe
from chexjax.errors import CheckpointError
from chexjax.scanline import remove_artifacts, remove_artifacts_reference
from chexjax.self_test import comparison
from chexjax.self_test.comparison import (
    Check,
    compare,
    compute,
    joined,
    largest_difference,
    read_expected,
    read_films,
    restore,
)
from chexjax.trust.kept import read_trust
from chexjax.workdir.restore import Restored

FILMS = read_films()


@pytest.fixture(scope="module")
def restored() -> Restored:
    return restore()


def failing(restored: Restored) -> set[str]:
    """The first words of the checks that fail."""
    return {
        check.name.split(",")[0]
        for check in compare(compute(restored, FILMS), read_expected(FILMS))
        if not check.passed
    }


def perturbed(restored: Restored, change: Any) -> Restored:
    """With another kernel of the first convolution."""

    def changed(path: tuple[Any, ...], leaf: Any) -> Any:
        return change(leaf) if jax.tree_util.keystr(path).endswith("['trunk']['conv1']['kernel']") else leaf

    variables = jax.tree_util.tree_map_with_path(changed, restored.variables)
    assert any(map(lambda a, b: a is not b, *map(jax.tree.leaves, (variables, restored.variables))))
    return dataclasses.replace(restored, variables=variables)


def test_a_sound_install_passes(restored: Restored) -> None:
    checks = list(compare(compute(restored, FILMS), read_expected(FILMS)))
    assert [check.name for check in checks] == list(comparison.TOLERANCES)
    assert all(check.passed for check in checks), checks
    assert max(check.difference for check in checks[2:]) > 0  # float32 is not float64: something was computed


def test_the_stored_films_are_cleaned_by_the_scalar_rule() -> None:
    config = recipe.recipe_of(restore().config.data)
    scalar = joined(remove_artifacts_reference(film, **config.cleaning) for film in FILMS.values())
    assert np.array_equal(read_expected(FILMS)["cleaned"], scalar)
    assert (scalar != joined(FILMS.values())).mean() > 0.005


def test_weights_that_are_off_by_a_hundredth_are_seen(restored: Restored) -> None:
    assert failing(perturbed(restored, lambda kernel: kernel * 1.01)) >= {"logits", "maps", "calibrated probabilities"}


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_what_is_not_a_number_is_seen(restored: Restored) -> None:
    assert failing(perturbed(restored, lambda kernel: kernel * math.nan)) >= {"logits", "maps"}


def test_a_scan_line_rule_that_is_off_by_one_grey_level_is_seen(
    restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        recipe, "remove_artifacts", lambda x, **options: remove_artifacts(x, **options | {"threshold": 51})
    )
    assert "cleaned films" in failing(restored)


def test_another_way_to_shrink_is_seen(restored: Restored, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.setattr(recipe, "AREA", Image.Resampling.BILINEAR)
    assert "films as the network sees them" in failing(restored)


def test_another_gate_and_another_calibration_are_seen(restored: Restored, monkeypatch: pytest.MonkeyPatch) -> None:
    trust = read_trust(restored)
    domains = {name: dataclasses.replace(domain, limit=2 * domain.limit) for name, domain in trust.domains.items()}
    other = dataclasses.replace(trust, domains=domains, calibrations={})
    monkeypatch.setattr("chexjax.predict.classifier.read_trust", lambda _: other)
    assert failing(restored) >= {"distances from the training films", "calibrated probabilities"}


def test_a_status_that_differs_is_counted() -> None:
    expected = read_expected(FILMS)
    found = {key: value if key != "statuses" else np.array(["ok"] * len(FILMS)) for key, value in expected.items()}
    assert list(compare(found, expected))[-1] == Check("statuses that differ", 2.0, 0.0)


@pytest.mark.parametrize(
    ("found", "difference"), [([1.0, 2.5], 0.5), ([1.0], math.inf), ([1.0, math.nan], math.inf)]
)  # fmt: skip
def test_differences(found: list[float], difference: float) -> None:
    assert largest_difference(np.array(found), np.array([1.0, 2.0])) == difference


def test_the_command_says_what_fails(
    restored: Restored, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(comparison, "restore", lambda: perturbed(restored, lambda kernel: kernel * 1.01))
    assert run() == 1
    message = capsys.readouterr()
    assert "  FAIL logits: " in message.out
    assert "  ok   cleaned films" in message.out
    assert "logits (cpu)" in message.err


def test_a_damaged_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / comparison.EXPECTED).write_bytes(b"PK no more")
    with pytest.raises(CheckpointError, match="install chexjax anew"):
        read_expected(FILMS, tmp_path)


def test_the_command_in_any_folder(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}

    def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "chexjax.cli", "self-test", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=500)

    done = typed()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "this install computes what it should"
    assert "jaxlib " in done.stdout.splitlines()[0]
    assert sum(line.startswith("  ok ") for line in done.stdout.splitlines()) == len(comparison.TOLERANCES)
    assert not list(tmp_path.iterdir())
    assert (typed("more").returncode, typed("--wrong").returncode) == (64, 64)
