"""One run per workdir: a lock that names its owner; the next run takes it over when the owner is dead.

The lock is the file `lock.json`. An owner on this machine is dead when its process is gone. An owner on
another machine touches the lock every few seconds, and counts as dead when it has not done so for a minute of this
machine's monotonic time. No clock needs to be right, and no two clocks are compared.
"""

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import jax

from chexjax.errors import CheckpointError, warn

NAME: Final = "lock.json"
HEARTBEAT: Final = 5.0  # seconds
SILENCE: Final = 60.0  # seconds without a heartbeat after which an owner on another machine counts as dead


@dataclass(frozen=True)
class Owner:
    """A process: `boot` identifies its kernel, `started` distinguishes it from a later process with the same number."""

    host: str
    boot: str
    pid: int
    started: str
    since: float  # Unix time; shown to the user, never computed with

    def __str__(self) -> str:
        hours, minutes = divmod(int(max(time.time() - self.since, 0)) // 60, 60)
        return f"process {self.pid} on {self.host}, for {hours} h {minutes} min"


@contextmanager
def hold(workdir: Path) -> Iterator[Callable[[], None]]:
    """Holds the lock of `workdir`, which is created if absent; in a run of several processes the first one holds it.

    Yields a function that raises if the lock has been lost; call it before every write that two runs must not both do.

    Raises:
      CheckpointError: another run holds the workdir, or has taken it over, or it cannot be written to.
    """
    if jax.process_index() != 0:
        yield lambda: None
        return
    path = workdir / NAME
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = _take(path)
    except OSError as error:
        raise CheckpointError(f"{workdir} cannot be used as a workdir: {error.strerror}") from None

    def check_lock_is_ours() -> None:
        if not _is(file, path):
            raise CheckpointError(f"{path} is no longer this run's: another run has taken the workdir over")

    released = threading.Event()

    def beat() -> None:
        while not released.wait(HEARTBEAT):
            with suppress(OSError):
                os.utime(file)  # by its descriptor: a lock that was taken over is not touched

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield check_lock_is_ours
    finally:
        released.set()
        heart.join()
        if _is(file, path):
            path.unlink(missing_ok=True)
        os.close(file)


def _take(path: Path) -> int:
    """Creates the lock once no living owner has it, and returns its descriptor."""
    while True:
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            _remove_stale(path)
            continue
        try:
            os.write(file, json.dumps(asdict(_myself())).encode())
        except OSError:
            path.unlink()
            raise
        return file


def _remove_stale(path: Path) -> None:
    """Removes the lock of a dead owner.

    Raises:
      CheckpointError: the owner lives.
    """
    try:
        file = path.open("rb")  # kept open, so a new lock cannot reuse its inode and be mistaken for it
    except FileNotFoundError:
        return  # released just now
    with file:
        try:
            owner = Owner(**json.loads(file.read()))
        except (ValueError, TypeError):
            owner = None  # its owner was killed while writing it, or is writing it now
        if _lives(owner, path):
            raise CheckpointError(
                f"{path.parent} is in use by {owner or 'an unknown process'}\n"
                "wait until that has ended, or give this run another --workdir"
            )
        # Otherwise two runs could find it stale, and the slower one remove the new lock of the faster.
        with _alone(path.parent):
            if _is(file.fileno(), path):
                warn(f"{path.parent} was in use by {owner or 'an unknown process'}, which is gone; this run takes over")
                path.unlink()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """An exclusive advisory lock on `folder`; it does nothing on a file system without such locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lives(owner: Owner | None, path: Path) -> bool:
    me = _myself()
    if owner and (owner.host, owner.boot) == (me.host, me.boot):
        return _started(owner.pid) == owner.started
    until, before = time.monotonic() + SILENCE, _touched(path)
    while time.monotonic() < until:
        time.sleep(HEARTBEAT / 10)
        if _touched(path) != before:
            return True
    return False


def _touched(path: Path) -> int | None:
    """The time of the last heartbeat, for comparison with others only; None if the lock is gone."""
    with (
        suppress(FileNotFoundError),
        path.open("rb") as file,
    ):  # reopened, because NFS may cache the attributes of a name
        return os.fstat(file.fileno()).st_mtime_ns
    return None


def _is(file: int, path: Path) -> bool:
    """Whether the open `file` is the one that `path` names."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _myself() -> Owner:
    boot, pid = Path("/proc/sys/kernel/random/boot_id"), os.getpid()
    return Owner(
        socket.gethostname(), boot.read_text().strip() if boot.exists() else "", pid, _started(pid), time.time()
    )


def _started(pid: int) -> str:
    """The kernel's start time of the process; "dead" if there is none, or only a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "dead"
    except PermissionError:
        pass  # another user's
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return ""  # not Linux: the process number alone must do
    fields = stat.read_text().rpartition(")")[2].split()
    return "dead" if fields[0] in "ZX" else fields[19]
