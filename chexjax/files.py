"""Files: local paths, folders in the making, the manifest of a whole one, and cells that no spreadsheet runs."""

import glob
import gzip
import hashlib
import json
import math
import os
import re
import shutil
import socket
import stat
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from chexjax.errors import ConfigError, DataError, printable, reason_of

MANIFEST: Final = "manifest.json"
PARTIAL: Final = ".partial"  # the end of a name until the file or folder is whole
# Names that end so are tables, pictures or weights, and no folders.
FILE_ENDINGS: Final = (
    ".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet", ".feather", ".xls", ".xlsx", ".pkl", ".h5", ".npy", ".npz",
    ".html", ".htm", ".pdf", ".gz", ".zip", ".tar", ".png", ".jpg", ".jpeg", ".dcm",
    ".pth", ".pt", ".ckpt", ".safetensors", ".onnx",
)  # fmt: skip
_RUN: Final = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a cell that is run begins with (OWASP, "CSV Injection")
_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", re.ASCII)


# Two letters at least: `C:\\films` is a path. One slash will do: `Path("gs://bucket/run")` is `gs:/bucket/run`.
_ADDRESS: Final = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):/")


def address_complaint(text: str | os.PathLike[str]) -> str:
    """What to say of an address such as `gs://bucket/run`, as the end of a sentence; "" of a path."""
    address = _ADDRESS.match(str(text))
    if not address:
        return ""
    if address[1].lower() == "file":
        return "give the path alone, without file://"
    is_web = address[1].lower() in ("http", "https", "ftp")
    way = "download it first" if is_web else "mount the bucket, or copy it here"
    return f"it takes local folders and files only, not {address[1]}:// addresses: {way}"


def local_path(text: str | os.PathLike[str], what: str) -> Path:
    """A path that a user gave, with `~` expanded. `what` is how the user calls it: a flag or a field.

    Raises:
      ConfigError: it is an address. As a path it would be a folder called `gs:`.
    """
    if complaint := address_complaint(text):
        raise ConfigError(f"{what} is {printable(text)}; {complaint}")
    return Path(text).expanduser()


def folder_path(text: str | os.PathLike[str], flag: str) -> Path:
    """A `local_path` of a folder to write, which need not exist.

    Raises:
      ConfigError: it is an address, a file, or called like one.
    """
    path = local_path(text, flag)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{flag}={printable(path)} is a file; it takes a folder")
    if _is_called_like_a_file(path) and not path.is_dir():
        folder = path
        while _is_called_like_a_file(folder):
            folder = folder.with_suffix("")
        raise ConfigError(f"{flag}={printable(path)} is a file's name; it takes a folder: {flag}={printable(folder)}")
    return path


def _is_called_like_a_file(path: Path) -> bool:
    return path.suffix.lower() in FILE_ENDINGS


# Whole or not at all.


@contextmanager
def whole(path: Path, flush: bool = False) -> Iterator[Path]:
    """Yields the path at which to write a file, or a folder, that gets the name `path` when all of it is there.

    What `path` held before stays until then, and for good where the writing fails; of that, nothing is left behind.
    With `flush` the file is on the disk, and not only in memory, before it gets its name.

    Raises:
      OSError: the disk does not take it.
    """
    partial = path.with_name(f"{path.name}{PARTIAL}")
    try:
        yield partial
        if flush:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        _remove(partial)
        raise


def write_whole(path: Path, text: str, flush: bool = False) -> None:
    """Writes a file of UTF-8 text whole or not at all; see `whole`."""
    with whole(path, flush) as partial:
        partial.write_text(text, encoding="utf-8")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# Folders in the making: each process has its own, under a name that tells whose, until it is whole and renamed.


def own_folder(parent: Path, prefix: str) -> Path:
    """A new, empty `parent/PREFIX-HOST-PID`; what killed processes of this machine left under such names is removed.

    Raises:
      OSError: `parent` cannot be written to.
    """
    own = f"{prefix}-{socket.gethostname()}-"
    mine = parent / f"{own}{os.getpid()}"
    for path in parent.glob(f"{glob.escape(own)}*"):
        if path == mine or not _lives(path.name.removeprefix(own)):  # in containers each run has the same number
            shutil.rmtree(path, ignore_errors=True)
    mine.mkdir(parents=True)
    return mine


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OverflowError):
        pass  # another user's process, or no number: not ours to remove
    return True


# What a folder held when it was whole: size and sha256 of every file below it, in a manifest of its own. Whoever
# finishes a folder writes its manifest last; whoever opens it asks for `manifest_troubles`.


def write_manifest(folder: Path) -> None:
    """Sends every file below `folder` to the disk and writes the manifest, in one move.

    Raises:
      OSError: the disk does not take it.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    listed = {path.relative_to(folder).as_posix(): [path.stat().st_size, sha256(path, flush=True)] for path in files}
    write_whole(folder / MANIFEST, json.dumps(listed, indent=1), flush=True)


def manifest_troubles(folder: Path, up_to: float = math.inf) -> list[str]:
    """What is not as the manifest says, a line a file; nothing where all is well.

    Sizes are compared always, contents of files of at most `up_to` bytes. A file that the manifest does not know is
    no trouble.
    """
    try:
        listed = {_below(name): (int(size), str(digest)) for name, (size, digest) in _read(folder / MANIFEST).items()}
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        return [f"{MANIFEST} cannot be read ({type(error).__name__})"]
    with ThreadPoolExecutor() as pool:  # hashing holds no lock of Python's
        found = pool.map(lambda name: _trouble_with(folder / name, *listed[name], listed[name][0] <= up_to), listed)
    return [f"{name} {what}" for name, what in zip(listed, found, strict=True) if what]


def sha256(path: Path, flush: bool = False) -> str:
    """The sha256 of a file's content; with `flush` it is on the disk, and not only in memory, before that is said."""
    with path.open("rb") as file:
        if flush:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict[str, tuple[int, str]]:
    return json.loads(path.read_bytes())


def _below(name: str) -> str:
    """The name of a file below the folder; a manifest that names another, such as a device, is none."""
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise ValueError(f"{name} leads out of the folder")
    return name


def _trouble_with(path: Path, size: int, digest: str, whole: bool) -> str:
    try:
        found = path.stat().st_size
        if found != size or not path.is_file():
            return f"has {found} bytes of {size}"
        return "is not what was written" if whole and sha256(path) != digest else ""
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


# Tables from outside.

MAX_BYTES: Final = 2**30  # of a table, once it is unpacked; the largest of those we know has 0.1 of it


def read_text(path: Path) -> str:
    """The text of a table, UTF-8 with a byte order mark or without; unpacked where it begins as gzip or zip files do.

    Raises:
      DataError: it is absent, no file, no UTF-8 text, a broken archive, a zip of no CSV file or several, or larger than
        1 GiB once it is unpacked.
    """
    where = printable(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{where} is not a file")
        with path.open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            if magic[:2] == b"\x1f\x8b":
                with gzip.open(file) as unpacked:
                    data = unpacked.read(MAX_BYTES + 1)
            elif magic == b"PK\x03\x04":
                with zipfile.ZipFile(file) as archive:
                    members = [name for name in archive.namelist() if name.lower().endswith(".csv")]
                    if len(members) != 1:
                        raise DataError(f"{where} holds {len(members)} CSV files; unpack it and name one")
                    with archive.open(members[0]) as member:
                        data = member.read(MAX_BYTES + 1)
            else:
                data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise DataError(f"{where} holds more than {MAX_BYTES} bytes; no table of films is so large")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{where} does not exist") from None
    except UnicodeDecodeError:
        raise DataError(f"{where} cannot be read as CSV: it is not UTF-8 text") from None
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{where} cannot be read as CSV: {reason_of(error)}") from None


# Text from outside in CSV cells: a spreadsheet must show it, not run it.


def cell(text: str) -> str:
    """The text as a cell that no spreadsheet runs: what begins like a formula, and is no number, gets an apostrophe."""
    if _NUMBER.fullmatch(text):
        return text
    return f"'{text}" if text.startswith(_RUN) or _masked(text) else text


def text_of(cell: str) -> str:
    """What `cell` was given."""
    return cell[1:] if _masked(cell) else cell


def _masked(text: str) -> bool:
    """Apostrophes, then what would be run: so that text that looks so by itself comes back as it was, too."""
    return text.startswith("'") and text.lstrip("'").startswith(_RUN)
