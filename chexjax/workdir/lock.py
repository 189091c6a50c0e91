"""One run a workdir: a lock that names its owner, and that the next run takes over when the owner is dead.

The lock is the file `lock.json`. An owner on this machine is dead when there is no such process any more. One on
another machine is watched: it touches its lock every few seconds, and is dead when it has not done so for a minute of
this machine's own monotonic time. So no clock needs to be right, and none is compared with another.
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
SILENCE: Final = 60.0  # seconds without a heartbeat, after which an owner elsewhere is dead


@dataclass(frozen=True)
class Owner:
    """A process: `boot` is of its kernel, `started` tells it from a later process of the same number."""

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
    """Holds the lock of `workdir`, which is made where it is not there; of several processes the first holds it.

    Yields a function to be called before each thing that must not be written by two: it makes sure that the lock is
    still held.

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
    """Makes the lock and returns its descriptor, once no living owner has it."""
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
        file = path.open("rb")  # kept open, so that no new lock can be mistaken for this one
    except FileNotFoundError:
        return  # released just now
    with file:
        try:
            owner = Owner(**json.loads(file.read()))
        except (ValueError, TypeError):
            owner = None  # killed as it wrote the lock, or writing it now
        if _lives(owner, path):
            raise CheckpointError(
                f"{path.parent} is in use by {owner or 'an unknown process'}\n"
                "wait until that has ended, or give this run another --workdir"
            )
        with _alone(path.parent):  # else two might find it stale, and the slower remove the quicker one's new lock
            if _is(file.fileno(), path):
                warn(f"{path.parent} was in use by {owner or 'an unknown process'}, which is gone; this run takes over")
                path.unlink()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps others who ask the same of `folder` out; where its file system knows no such thing, it does nothing."""
    place = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


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
    """The time of the last heartbeat, to be compared with nothing but its like; None where the lock is gone."""
    with suppress(FileNotFoundError), path.open("rb") as file:  # opened anew, since NFS may remember a name's state
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
    """When the process began, by its kernel; "dead" where there is none, or one that has ended and is not reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "dead"
    except PermissionError:
        pass  # another user's
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return ""  # no Linux: the number alone must do
    fields = stat.read_text().rpartition(")")[2].split()
    return "dead" if fields[0] in "ZX" else fields[19]
