"""The journal of a prediction, a line of JSON per finished film: for resuming a run and for joining shards.

`OUT/journal/K-of-N.jsonl` begins with a head that records the request, and ends with a line that marks it complete. The
tables and the page are made from it; then it is deleted. No line holds a path unless paths were requested.
"""

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TextIO

from chexjax.errors import ConfigError, DataError, printable
from chexjax.files import whole

FOLDER: Final = "journal"
_END: Final = "complete"

Record = dict[str, Any]


class Journal:
    """The journal of one shard, open for writing. `done` names the films that are finished."""

    def __init__(self, out: Path, head: Record, fingerprints: dict[str, str]) -> None:
        """Continues an existing journal if it has the same head.

        Args:
          head: the request; `head["shard"]` is (number, count).
          fingerprints: of the films to predict, by name. Records of films that have changed since, or could not be
            read, are dropped.

        Raises:
          ConfigError: another process writes it, or there are journals of a division into another number of shards.
        """
        number, count = head["shard"]
        self.path = out / FOLDER / f"{number}-of-{count}.jsonl"
        check_shards(out, count)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.done: set[str] = set()
        self._lock = self._claim()
        head = json.loads(json.dumps(head))  # as it will be read
        with whole(self.path) as partial, partial.open("w", encoding="utf-8") as file:
            _write(file, head)
            if self.path.exists() and read_head(self.path) == head:
                for record in read_records(self.path):
                    if "error" not in record and fingerprints.get(record["name"]) == record["seen"]:
                        self.done.add(record["name"])
                        _write(file, record)
        self._file = self.path.open("a", encoding="utf-8")

    def add(self, record: Record) -> None:
        """Writes the record of a film, which from now on is done even if this process ends."""
        _write(self._file, record)
        self._file.flush()

    def complete(self, about: Record) -> None:
        """Marks the journal as complete. `about` is saved for joining the shards."""
        _write(self._file, {_END: about})

    def close(self) -> None:
        self._file.close()
        if self._lock is not None:
            self._lock.close()

    def _claim(self) -> TextIO | None:
        """Locks the journal against a second process. Without file locks, as on Windows, it does nothing."""
        try:
            import fcntl
        except ImportError:
            return None
        file = self.path.with_suffix(".lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ConfigError(f"another process writes to --out={printable(self.path.parent.parent)}") from None
        except OSError:  # a file system without locks
            pass
        return file


def check_shards(out: Path, count: int) -> None:
    """Refuses a division into `count` shards where shards of another division wait in `out` to be joined.

    Raises:
      ConfigError: there are such shards.
    """
    counts = {path.stem.partition("-of-")[2] for path in (out / FOLDER).glob("*-of-*.jsonl")}
    if others := sorted(counts - {str(count)}):
        raise ConfigError(
            f"{printable(out / FOLDER)} holds shards of {others[0]}, not of {count}, that are not joined yet\n"
            f"give --shard=K/{others[0]}, or remove that folder"
        )


def _write(file: TextIO, record: Record) -> None:
    file.write(json.dumps(record, ensure_ascii=False) + "\n")


def fingerprint(path: Path) -> str:
    """A fingerprint of a film that changes when the file does, and does not reveal its path."""
    absolute = os.path.abspath(path)
    try:
        about = path.stat()
    except (OSError, ValueError):
        return ""
    return digest_of(absolute, str(about.st_size), str(about.st_mtime_ns))


def digest_of(*texts: str) -> str:
    """16 hexadecimal digits by which to compare texts that are not to be written down, such as paths."""
    return hashlib.sha256("\0".join(texts).encode(errors="surrogatepass")).hexdigest()[:16]


def read_head(path: Path) -> Record:
    """The head of a journal; empty if it has none."""
    return next(_lines(path), {})


def read_records(path: Path) -> Iterator[Record]:
    """The films of a journal, up to an incompletely written line."""
    return (record for record in _lines(path) if "name" in record)


def _lines(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                return
            if not (line.endswith(b"\n") and isinstance(record, dict)):
                return
            yield record


def find_journals(out: Path) -> tuple[list[Path], list[Record]]:
    """The complete journals of all shards in `out`, in order, and what each says at its end.

    Raises:
      DataError: shards are missing, unfinished or of different requests or films; the message names them.
    """
    paths = sorted((out / FOLDER).glob("*-of-*.jsonl"), key=lambda path: int(path.name.split("-")[0]))
    where = printable(out / FOLDER)
    if not paths:
        raise DataError(f"{where} holds no shards; python -m chexjax.predict --shard=K/N writes them")
    heads = [read_head(path) for path in paths]
    first = heads[0]
    for path, head in zip(paths, heads, strict=True):
        if {**head, "shard": 0} != {**first, "shard": 0} or head["shard"][1] != first["shard"][1]:
            raise DataError(
                f"{where}: {path.name} and {paths[0].name} were not made by the same command; remove those of the older"
            )
    count = first["shard"][1]
    found = {head["shard"][0]: _end_of(path) for path, head in zip(paths, heads, strict=True)}
    ends = {number: end for number, end in found.items() if end is not None}
    if missing := [number for number in range(1, count + 1) if number not in ends]:
        listed = ", ".join(f"{number}/{count}" for number in missing[:20])
        raise DataError(f"{where}: not done yet, --shard={listed}{', ...' if len(missing) > 20 else ''}")
    for number, end in sorted(ends.items()):
        if end["films"] != ends[1]["films"]:
            raise DataError(
                f"{where}: shards 1 and {number} of {count} saw different films, {ends[1]['films'][0]:,} and "
                f"{end['films'][0]:,}: each takes its part of the same folders; give all shards again"
            )
    return paths, [ends[number] for number in range(1, count + 1)]


def _end_of(path: Path) -> Record | None:
    last = next(iter(deque(_lines(path), maxlen=1)), {})
    return last.get(_END)


def remove_journals(out: Path) -> None:
    """Deletes the journals, once the tables exist."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)
