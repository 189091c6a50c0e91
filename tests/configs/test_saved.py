"""A config that a run left is a config like any other; and None is a value that a command line can give."""

import json
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from chexjax.configs import common, dml, saved
from chexjax.configs.arguments import explain, find_configs, set_nothings, take_nothings
from chexjax.errors import ConfigError


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """What a run leaves: whole numbers where floats are meant, and null."""
    fields = json.loads(dml.get_config().to_json())
    fields["epochs"] = 3
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(fields))
    return tmp_path / "run"


def parsed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> ConfigDict:
    """The config that these arguments make."""
    argv = ["main", *arguments]
    monkeypatch.setattr(sys, "argv", argv)
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    given, nothings = take_nothings(find_configs(argv))
    values(given)
    set_nothings(config.value, nothings)
    return config.value


def test_the_json_of_a_run_is_its_config_with_the_fields_own_types(workdir: Path, monkeypatch) -> None:
    expected = dml.get_config().to_dict()
    ways = (f"--config={workdir}/config.json", f"--config={workdir}", f"--workdir={workdir}", f"-workdir={workdir}")
    for way in ways:
        config = parsed(monkeypatch, way)
        assert config.to_dict() == expected
        assert type(config.epochs) is float
        changed = parsed(monkeypatch, way, "--config.epochs=0.5", "--config.networks.net2.shared_stages=1")
        assert (changed.epochs, changed.networks.net2.shared_stages) == (0.5, 1)
    monkeypatch.chdir(workdir)
    assert parsed(monkeypatch, "--config", "config.json").to_dict() == expected


def test_a_config_that_is_given_comes_before_that_of_the_workdir(workdir: Path, monkeypatch) -> None:
    config = parsed(monkeypatch, "--config=configs/baseline.py", f"--workdir={workdir}")
    assert list(config.networks) == ["net1"]


def test_what_an_older_version_did_not_know_is_done_as_it_did(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"networks": {"net1": {"model": "resnet34"}}, "data": {"size": 96}}')
    config = saved.get_config(str(tmp_path / "a.json"))
    expected = common.base()
    expected.data.enlarge = "area"
    expected.data.size = 96
    expected.networks.net1.update({"model": "resnet34", "seed": 0})
    assert config.to_dict() == expected.to_dict()


@pytest.mark.parametrize("text", ["", "[]", "null", '{"epochs": 3}', "import os", '{"networks": ', "\x00\xff"])
def test_what_is_no_config_is_told_in_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match="cannot be read as a config: ") as raised:
        saved.get_config(str(tmp_path / "a.json"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("nothing", ["None", "none", "null", ""])
def test_a_field_that_may_be_none_can_be_set_so(nothing: str, workdir: Path, monkeypatch) -> None:
    fields = json.loads((workdir / "config.json").read_text())
    fields["networks"]["net1"]["shared_stages"] = 2
    fields["teacher"] = "somewhere"
    (workdir / "config.json").write_text(json.dumps(fields))
    overrides = [f"--config.networks.net{k}.shared_stages={nothing}" for k in (1, 2)]
    config = parsed(monkeypatch, f"--workdir={workdir}", *overrides, f"--config.teacher={nothing}")
    assert [network.shared_stages for network in config.networks.values()] == [None, None]
    assert config.teacher == ""
    with pytest.raises(ConfigError, match=r"config\.data\.size cannot be None; it is 64 by default"):
        parsed(monkeypatch, f"--workdir={workdir}", f"--config.data.size={nothing}")


def test_no_text_of_a_mistake_is_longer_than_a_line() -> None:
    arguments = ["main", "--config=configs/baseline.py", "--config.networks.net1.widht=2"]
    message = explain(KeyError('\'widht\'\nDid you mean "width" instead of "widht"?'), find_configs(arguments))
    assert message == "config has no field networks.net1.widht; do you mean config.networks.net1.width?"
    assert explain(ValueError("a\nb"), find_configs(arguments[:2])) == "b"
