"""The arguments of a command that takes `--config`: which file is meant, and what a mistaken override should have been.

`--config=configs/dml.py`, or `--config=dml`, may be the package's own file; `--config=RUN/config.json`, or
`--config=RUN`, is what a run left; without `--config` it is what lies in `--workdir`.
"""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Any, Final

from absl import flags
from ml_collections import ConfigDict, config_flags

from chexjax import configs
from chexjax.configs import common
from chexjax.errors import ConfigError, printable
from chexjax.files import local_path

PACKAGED: Final = ("baseline", "best128", "distill", "dml", "specialists", "study")  # the package's own
SAVED: Final = "config.json"  # what a run calls its own config, see `workdir.config`
_NOTHING: Final = ("None", "none", "null", "")
_OVERRIDE: Final = re.compile(r"--?(?:no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)
# What other libraries call a field.
_ALIASES: Final = {"lr": "learning_rate", "wd": "weight_decay", "image_size": "size", "num_workers": "threads"}
# How absl says that a value is of no such type, and what the field takes.
_MISTAKES: Final = {
    "invalid literal": "a whole number",
    "could not convert": "a number",
    "('Non-boolean": "True or False",
    "Failed to parse": "a group of fields, each set by itself",
}


def find_configs(argv: Sequence[str]) -> list[str]:
    """The arguments, with the config file that is meant in place of the one that is typed, or left out.

    Raises:
      ConfigError: `--config` or `--workdir` is an address.
    """
    for flag in ("workdir", "config"):
        local_path(_value_of(flag, argv), f"--{flag}")
    found = list(argv)
    named = False
    for index, flag in enumerate(argv):
        name, equals, path = flag.partition("=")
        if name in ("--config", "-config"):
            named = True
            if equals:
                found[index] = f"{name}={_find(path)}"
            else:
                found[index + 1 : index + 2] = map(_find, argv[index + 1 : index + 2])
    own = Path(_value_of("workdir", argv)).expanduser() / SAVED
    if not named and own.parent != Path() and own.is_file():
        found.insert(1, f"--config={_find(str(own))}")
    return found


def _value_of(flag: str, argv: Sequence[str]) -> str:
    """The last value of a flag, "" where it is not given."""
    value = ""
    for index, text in enumerate(argv):
        name, equals, rest = text.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            value = rest if equals else "".join(argv[index + 1 : index + 2])
    return value


def _find(config: str) -> str:
    """PATH or PATH:VARIANT, as it is, within the package, or what a run left."""
    folder = Path(configs.__path__[0])
    saved = Path(config).expanduser()
    saved = saved / SAVED if saved.is_dir() else saved
    if saved.suffix.lower() == ".json":
        return f"{folder / 'saved.py'}:{saved}"
    path, colon, variant = config.partition(":")
    if Path(path).exists():
        return config
    if path in (*PACKAGED, *(f"configs/{name}" for name in PACKAGED)):
        path = f"configs/{Path(path).name}.py"
    packaged = folder / Path(path).name
    return f"{packaged}{colon}{variant}" if Path(path).parent == Path("configs") and packaged.is_file() else config


def take_nothings(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without those that set a field to None or to nothing, and the paths of these fields.

    absl would read the text `None` as a number, or as the name of a file.
    """
    rest, nothings = [], []
    for text in argv:
        override = _OVERRIDE.fullmatch(text)
        if override and override[2] in _NOTHING:
            nothings.append(override[1])
        else:
            rest.append(text)
    return rest, nothings


def set_nothings(config: ConfigDict, paths: Sequence[str]) -> None:
    """Sets each field to None where it may be None, to "" where it is a text.

    Raises:
      ConfigError: there is no such field, or it takes something.
    """
    for path in paths:
        *groups, name = path.split(".")
        parent: Any = config
        for group in groups:
            parent = parent.get(group) if isinstance(parent, ConfigDict) else None
        if not isinstance(parent, ConfigDict) or name not in parent:
            raise ConfigError(unknown_field(config, path))
        if isinstance(parent[name], str):
            parent[name] = ""
        elif parent[name] is None or name in common.OPTIONAL:
            with parent.ignore_type():
                parent[name] = None
        else:
            raise ConfigError(f"config.{path} cannot be None; it is {parent[name]!r} by default")


def explain(error: Exception, argv: Sequence[str]) -> str:
    """In one line, what is wrong with the arguments on which absl or ml_collections raised `error`."""
    if (config := _load(argv)) is not None:
        paths = [match[1] for match in map(_OVERRIDE.fullmatch, argv) if match]
        for path in paths:
            if path not in dict(_walk(config)):
                return unknown_field(config, path)
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip() or repr(error)
    if mistake := re.match(r"flag --(config\.[^=]+)=(.*?): (.*)", text, re.DOTALL):
        for start, takes in _MISTAKES.items():
            if mistake[3].startswith(start):
                return f"{mistake[1]} is {mistake[2]!r}; it takes {takes}"
    path = _value_of("config", argv).partition(":")[0]
    if text.endswith(f"No such file or directory: {path!r}"):
        return absent_config(path)
    return text.splitlines()[-1].strip().removeprefix("ValueError: ")


def absent_config(path: str) -> str:
    """Says that there is no such config file, and names the package's own."""
    names = ", ".join(f"configs/{name}.py" for name in PACKAGED)
    return f"the config file {printable(path)} does not exist; the package has {names}"


def unknown_field(config: ConfigDict, path: str) -> str:
    """Says that there is no such field, and names those that may be meant."""
    paths = [each for each, _ in _walk(config)]
    above, _, name = path.rpartition(".")
    name = _ALIASES.get(name, name)
    names = [each.rpartition(".")[2] for each in paths]
    close = [name] if name in names else get_close_matches(name, names, n=3)
    meant = [each for each, last in zip(paths, names, strict=True) if last in close]
    meant = [each for each in meant if each.rpartition(".")[0] == above] or meant
    meant.sort(key=lambda each: -SequenceMatcher(None, each, path).ratio())
    shown = f"; do you mean {' or '.join(f'config.{each}' for each in meant[:3])}?" if meant else ""
    return f"config has no field {printable(path)}{shown}"


def _walk(config: ConfigDict, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every field and group below `config`, by its path."""
    for name, value in config.items():
        yield f"{above}{name}", value
        if isinstance(value, ConfigDict):
            yield from _walk(value, f"{above}{name}.")


def _load(argv: Sequence[str]) -> ConfigDict | None:
    """The config without any override; None where that is what fails."""
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=[""])
    try:
        values(["", f"--config={_value_of('config', argv)}"])
        return holder.value if isinstance(holder.value, ConfigDict) else None
    except Exception:  # whatever a config file does; the error that is explained tells of it
        return None
