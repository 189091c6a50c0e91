"""Every field of a config has values that a run can use, and others are refused by the field's name."""

import importlib
import math
from collections.abc import Iterator
from typing import Any

import pytest
from ml_collections import ConfigDict

from chexjax.configs import common, fields
from chexjax.configs.fields import Field
from chexjax.errors import ConfigError
from chexjax.training import loop

VARIANTS = [
    ("baseline", "resnet18"), ("baseline", "densenet121-chestxray14"), ("dml", "phantom"), ("dml", "chestxray14"),
    ("dml", "chestxray14-twins"), ("dml", "resnet18,resnet18,densenet121-chestxray14"), ("specialists", "resnet50"),
    ("best128", "densenet169"),
]  # fmt: skip


def walk(tree: Any, above: str = "") -> Iterator[tuple[str, Field]]:
    for name, field in tree.items():
        yield from [(f"{above}{name}", field)] if isinstance(field, Field) else walk(field, f"{above}{name}.")


FIELDS = [*walk(common.FIELDS), *walk(common.NETWORK, "networks.net1.")]
NUMBERS = [(name, field) for name, field in FIELDS if field.kind in (int, float)]


def refused(config: ConfigDict, name: str, value: Any) -> str:
    """What is said of a config with that value, whatever the field's type was."""
    *parents, last = name.split(".")
    group = config
    for parent in parents:
        group = group[parent]
    with config.unlocked(), group.ignore_type():
        group[last] = value
    with pytest.raises(ConfigError) as raised:
        loop.check(config)
    return str(raised.value)


def test_every_number_has_a_least_and_a_largest_value() -> None:
    assert len(NUMBERS) > 40
    assert [name for name, field in NUMBERS if field.least is None and field.above is None] == []
    assert [name for name, field in NUMBERS if field.most is None] == []


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=[name for name, _ in FIELDS])
def test_what_lies_outside_is_refused_by_the_fields_name(name: str, field: Field) -> None:
    outside: list[Any] = [[1]]
    if field.kind in (int, float):
        outside += ["1", math.nan, math.inf]
        outside += [field.above] if field.above is not None else [field.least - 1]
        outside += [field.most + 1]
    if field.kind is int:
        outside += [True, (field.least if field.above is None else field.above) + 0.5]
    if field.choices or field.keys_of:
        outside.append("none of them")
    for value in outside:
        value = float(value) if field.kind is float and isinstance(value, int) else value  # as ConfigDict does
        assert refused(common.base(), name, value).startswith(f"config.{name} is {value!r}; it ")


@pytest.mark.parametrize(("file", "variant"), VARIANTS)
def test_the_configs_that_come_along_can_be_used(file: str, variant: str) -> None:
    loop.check(importlib.import_module(f"chexjax.configs.{file}").get_config(variant))


def test_every_choice_can_be_made() -> None:
    for name, field in FIELDS:
        for value in loop.TABLES[field.keys_of] if field.keys_of else field.choices:
            config = common.base()
            config.update_from_flattened_dict({name: value, "groups.network": "somewhere", "teacher": "somewhere"})
            config.networks.net2 = common.network("resnet18", seed=2)
            loop.check(config)


def test_a_config_of_ones_own_may_leave_fields_out_but_not_invent_any() -> None:
    own = ConfigDict({"epochs": 7, "data": {"size": 96}, "networks": {"net1": {"model": "resnet34"}}})
    whole = common.complete(own)
    loop.check(whole)
    expected = common.base()
    expected.update({"epochs": 7.0})
    expected.data.size = 96
    expected.networks.net1.update({"model": "resnet34", "seed": 0})
    assert whole.to_dict() == expected.to_dict()
    assert own.to_dict() == {"epochs": 7, "data": {"size": 96}, "networks": {"net1": {"model": "resnet34"}}}
    own.data.clena = True
    with pytest.raises(ConfigError, match=r"config\.data has no field clena; there are source, dir, "):
        loop.check(common.complete(own))


@pytest.mark.parametrize("networks", [None, 3, {}, {"net1": 3}])
def test_without_networks_there_is_no_run(networks: Any) -> None:
    config = common.base()
    with config.ignore_type():
        config.networks = ConfigDict(networks) if isinstance(networks, dict) else networks
    with pytest.raises(ConfigError, match=r"config\.networks"):
        loop.check(common.complete(config))


def test_a_group_that_is_no_group_is_told() -> None:
    assert refused(common.base(), "mutual", 1.0).startswith("config.mutual is 1.0; it holds the fields updates, kl")


def test_only_what_came_later_is_filled_into_an_old_config() -> None:
    tree = {"old": fields.number(1, 0), "new": fields.number(2, 0, since="9"), "deep": {"new": fields.text("a", "9")}}
    config = ConfigDict({"deep": {}})
    fields.complete(config, tree, later_only=True)
    assert config.to_dict() == {"new": 2, "deep": {"new": "a"}}


def test_an_old_config_gets_what_runs_did_before_the_field_and_a_new_one_the_default() -> None:
    tree = {"way": fields.choice("new", "old", since="9", former="old")}
    for later_only, expected in ((True, "old"), (False, "new")):
        config = ConfigDict()
        fields.complete(config, tree, later_only)
        assert config.way == expected
