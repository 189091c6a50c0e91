"""Folders in the making: each process has its own, under a name that tells whose, until it is whole and renamed."""

import glob
import os
import shutil
import socket
from pathlib import Path


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
