"""What a folder held when it was whole: size and sha256 of every file below it, in a `manifest.json` of its own.

Whoever finishes a folder writes its manifest last; whoever opens it asks for `troubles`.
"""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Final

NAME: Final = "manifest.json"


def write(folder: Path) -> None:
    """Sends every file below `folder` to the disk and writes the manifest, in one move.

    Raises:
      OSError: the disk does not take it.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)
    listed = {path.relative_to(folder).as_posix(): [path.stat().st_size, sha256(path, flush=True)] for path in files}
    partial = folder / f"{NAME}.partial"
    with partial.open("w") as file:
        json.dump(listed, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / NAME)


def troubles(folder: Path, up_to: float = math.inf) -> list[str]:
    """What is not as the manifest says, a line a file; nothing where all is well.

    Sizes are compared always, contents of files of at most `up_to` bytes. A file that the manifest does not know is
    no trouble.
    """
    try:
        listed = {_below(name): (int(size), str(digest)) for name, (size, digest) in _read(folder / NAME).items()}
    except FileNotFoundError:
        return [f"{NAME} is missing"]
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        return [f"{NAME} cannot be read ({type(error).__name__})"]
    found = (_trouble(folder / name, size, digest, size <= up_to) for name, (size, digest) in listed.items())
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


def _trouble(path: Path, size: int, digest: str, whole: bool) -> str:
    try:
        found = path.stat().st_size
        if found != size or not path.is_file():
            return f"has {found} bytes of {size}"
        return "is not what was written" if whole and sha256(path) != digest else ""
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
