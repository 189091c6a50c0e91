"""What a command's flags offer without loading the library is what the library has."""

import importlib
import sys

import pytest
from absl import flags

from chexjax.commands import export, predict, score, simulate
from chexjax.data.recipe import ENLARGE
from chexjax.data.sources.phantom import ARTIFACTS
from chexjax.evaluation.summary import GROUPINGS, SENSITIVITY
from chexjax.explain.cam import FINE, METHODS
from chexjax.export.stablehlo import PLATFORMS
from chexjax.models.network import ENSEMBLE
from chexjax.models.torch_weights import IMAGENET_MEAN, IMAGENET_STD
from chexjax.scanline import MAX_WIDTH, THRESHOLD


def test_lists_that_are_shown_or_checked() -> None:
    assert export.PLATFORMS == PLATFORMS
    assert predict.MAPS.replace(", or ", ", ").split(", ") == [*METHODS, FINE]
    assert score.GROUPINGS == GROUPINGS
    assert simulate.ARTIFACTS == ARTIFACTS


@pytest.fixture
def defaults(monkeypatch: pytest.MonkeyPatch):
    """A command's flags by name, as they are when nothing is typed."""

    def read(name: str) -> flags.FlagValues:
        found: list[flags.FlagValues] = []

        def parse(argv: list[str], values: flags.FlagValues, about: str) -> list[str]:
            values(["command"])
            found.append(values)
            raise SystemExit

        command = importlib.import_module(f"chexjax.commands.{name}")
        monkeypatch.setattr(command, "parse", parse)
        monkeypatch.setattr(sys, "argv", ["command"])
        with pytest.raises(SystemExit):
            command.main()
        return found[0]

    return read


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clean", {"threshold": THRESHOLD, "max_width": MAX_WIDTH}),
        ("prepare", {"threshold": THRESHOLD, "max_width": MAX_WIDTH}),
        ("score", {"sensitivity": SENSITIVITY}),
        ("predict", {"network": ENSEMBLE}),
        ("export", {"network": ENSEMBLE}),
        (
            "import_weights",
            {"source_mean": [*map(str, IMAGENET_MEAN)], "source_std": [*map(str, IMAGENET_STD)]},
        ),
    ],
)
def test_defaults(defaults, name: str, expected: dict[str, object]) -> None:
    values = defaults(name)
    assert {key: values[key].value for key in expected} == expected


def test_ways_to_enlarge(defaults) -> None:
    assert defaults("prepare")["enlarge"].parser.enum_values == list(ENLARGE)
