"""What stands behind a config's fields: a default, and the values that a run can use."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict, config_dict

from chexjax.errors import ConfigError
from chexjax.files import address_complaint


@dataclass(frozen=True)
class Field:
    """One field. Make it by `number`, `choice`, `text`, `path` or `switch`.

    `since` is the version that brought the field, "" for the first. A workdir made before is read with `former`, what
    runs did without the field: where that is None, with the default.
    """

    default: Any
    kind: type
    least: float | None = None
    most: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    keys_of: str = ""
    since: str = ""
    is_path: bool = False
    former: Any = None

    def complaint(self, value: Any, tables: Mapping[str, Collection[str]]) -> str:
        """What the field takes, as the end of a sentence, where `value` is something else; otherwise ""."""
        if value is None and self.default is None:
            return ""
        if self.choices or self.keys_of:
            allowed = tables[self.keys_of] if self.keys_of else self.choices
            return "" if value in tuple(allowed) else f"it may be {', '.join(allowed)}"
        names = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
        kinds = (int, float) if self.kind is float else (self.kind,)
        if type(value) not in kinds:
            return f"it takes {names[self.kind]}"
        if self.is_path:
            return address_complaint(value)
        if self.kind in (bool, str) or self._holds(value):
            return ""
        if self.above is not None:
            return f"it must be above {self.above} and at most {self.most}"
        return f"it must lie between {self.least} and {self.most}"

    def _holds(self, value: float) -> bool:
        least = -math.inf if self.least is None else self.least
        most = math.inf if self.most is None else self.most
        above = -math.inf if self.above is None else self.above
        return math.isfinite(value) and least <= value <= most and value > above  # nothing holds of NaN


Fields = Mapping[str, Any]  # a Field each, or the fields below a name


def number(
    default: float | None, least: float | None = None, most: float | None = None, *, above: float | None = None,
    since: str = "",
) -> Field:  # fmt: skip
    """A number from `least` to `most`, or above `above` and up to `most`; whole where the default is, or is None."""
    return Field(default, float if isinstance(default, float) else int, least, most, above, since=since)


def choice(*choices: str, keys_of: str = "", since: str = "", former: str | None = None) -> Field:
    """One of `choices`, by default the first; or a key of the table that `keys_of` names."""
    return Field(choices[0], str, choices=() if keys_of else choices, keys_of=keys_of, since=since, former=former)


def text(default: str = "", since: str = "") -> Field:
    """Any text."""
    return Field(default, str, since=since)


def path(since: str = "") -> Field:
    """A local folder or file, "" for none."""
    return Field("", str, since=since, is_path=True)


def switch(default: bool, since: str = "") -> Field:
    """True or False."""
    return Field(default, bool, since=since)


def defaults(fields: Fields) -> ConfigDict:
    """A config of the fields' defaults."""
    config = ConfigDict()
    for name, field in fields.items():
        if not isinstance(field, Field):
            config[name] = defaults(field)
        else:
            config[name] = config_dict.placeholder(field.kind) if field.default is None else field.default
    return config


def complete(config: ConfigDict, fields: Fields, later_only: bool = False) -> None:
    """Gives the fields that `config` lacks their defaults, in place.

    With `later_only` those alone that came later, and such values as runs before them had.
    """
    for name, field in fields.items():
        if not isinstance(field, Field):
            if name not in config and not later_only:
                config[name] = ConfigDict()
            if isinstance(config.get(name), ConfigDict):
                complete(config[name], field, later_only)
        elif name not in config and (field.since or not later_only):
            config[name] = field.former if later_only and field.former is not None else field.default


def retype(config: ConfigDict, fields: Fields) -> None:
    """Gives values that went through JSON the fields' types back, in place: a float that was whole, a None."""
    for name, field in fields.items():
        value = config.get(name)
        if not isinstance(field, Field):
            if isinstance(value, ConfigDict):
                retype(value, field)
        elif value is None and field.default is None:
            config[name] = config_dict.placeholder(field.kind)
        elif type(value) is int and field.kind is float:
            with config.ignore_type():
                config[name] = float(value)


def check(config: ConfigDict, fields: Fields, tables: Mapping[str, Collection[str]], where: str = "config") -> None:
    """Refuses a config that holds other fields, or values that no run can use.

    Args:
      tables: what the fields' `keys_of` name.
      where: what the config is called in messages.

    Raises:
      ConfigError: names the field, what it holds and what it may hold.
    """
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{where} is {config!r}; it holds the fields {', '.join(fields)}")
    if unknown := [name for name in config if name not in fields]:
        raise ConfigError(f"{where} has no field {', '.join(unknown)}; there are {', '.join(fields)}")
    for name, field in fields.items():
        if not isinstance(field, Field):
            check(config[name], field, tables, f"{where}.{name}")
        elif complaint := field.complaint(config[name], tables):
            raise ConfigError(f"{where}.{name} is {config[name]!r}; {complaint}")
