"""The films that `config.data` names, from one source or several, with the run's findings and their split."""

from pathlib import Path
from typing import Final

from ml_collections import ConfigDict

from chexjax.data.labels import Uncertain
from chexjax.data.sources import open_folder, read_source
from chexjax.data.sources.entries import Entries, Request
from chexjax.data.sources.merge import Collection, combine
from chexjax.data.sources.splits import Parts, divide
from chexjax.errors import ConfigError, printable
from chexjax.files import local_path

_FORM: Final = "it is written NAME=FOLDER or NAME=FOLDER=WEIGHT, with commas between"


def gather(config: ConfigDict) -> tuple[Collection, Parts]:
    """Reads the tables of all sources that `config` (a `config.data`) names; no film is opened.

    Raises:
      ConfigError: a field is malformed, or an unknown source is named.
      DataError: a table is missing or broken; see the sources, `merge` and `splits`.
    """
    findings = tuple(name for part in config.get("findings", "").split(",") if (name := part.strip()))
    uncertain = Uncertain.parse(config.get("uncertain", ""))
    films = combine(read_sources(config, findings), findings, uncertain, frontal=takes_frontal(config))
    lists = Path(config.lists).expanduser() if config.lists else None
    return films, divide(films, config.split, lists, config.val_fraction, config.split_seed)


def read_sources(config: ConfigDict, findings: tuple[str, ...] = ()) -> dict[str, Entries]:
    """The entries of each source that `config` (a `config.data`) names, by the source's label.

    `findings` are those wanted; see `entries.Request`.

    Raises:
      ConfigError, DataError: as for `gather`.
    """
    lists = Path(config.lists).expanduser() if config.lists else None
    table = config.get("table", "")
    sources = {}
    for label, (name, folder, _) in named_sources(config).items():
        folder = open_folder(config) if folder is None else folder
        if label != name and table and name == "table":
            raise ConfigError("data.sources names the source table twice, but data.table can name one file only")
        meant = table and (name == "table" or not config.get("sources"))  # of several sources, the one called `table`
        own_table = Path(table).expanduser() if meant else None
        skip = bool(config.get("skip_unreadable", False))
        sources[label] = read_source(name, Request(folder, own_table, findings, config.split, lists, skip))
    return sources


def takes_frontal(config: ConfigDict) -> bool:
    """Whether films with views other than PA and AP are left out."""
    return config.get("films", "frontal") == "frontal"


def named_sources(config: ConfigDict) -> dict[str, tuple[str, Path | None, float]]:
    """The sources by label: name in `SOURCES`, folder (None: `data.dir`) and weight.

    Raises:
      ConfigError: `data.sources` is malformed, or a folder is a URL.
    """
    text = config.get("sources", "")
    if not text:
        return {config.source: (config.source, None, 1.0)}
    found: dict[str, tuple[str, Path | None, float]] = {}
    for part in text.split(","):
        name, *rest = (piece.strip() for piece in part.split("="))
        try:
            weight = float(rest[1]) if len(rest) == 2 else 1.0
        except ValueError:
            weight = 0.0
        if not (1 <= len(rest) <= 2 and rest[0] and 0.001 <= weight <= 1000):
            raise ConfigError(f"data.sources has {printable(part)[:200]!r}; {_FORM}, the weight from 0.001 to 1000")
        label = name if name not in found else f"{name}{sum(n == name for n, _, _ in found.values()) + 1}"
        found[label] = (name, local_path(rest[0], f"the folder of {printable(name)} in data.sources"), weight)
    return found
