"""Errors that a user can cause: one family of exceptions; each message says what was found, where, and what to do."""

import _thread
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NoReturn

_LONG: Final = 400  # characters shown of a name
_repetition: Final = _thread.allocate_lock()  # held while a lost Ctrl-C waits to be repeated


class ChexjaxError(Exception):
    """Something the user can fix. The message suffices; no traceback is needed."""


class ConfigError(ChexjaxError):
    """A flag or a config field has an unusable value."""


class DataError(ChexjaxError):
    """A film, table or prepared set is missing, broken, or contradicts another."""


class CheckpointError(ChexjaxError):
    """A workdir or a checkpoint is missing, broken, or was made by another configuration."""


class TrainingError(ChexjaxError):
    """Training cannot go on, most often because a loss is no longer finite."""


# sysexits.h's EX_TEMPFAIL, "invited to retry". Not 143, which a process killed by SIGTERM without saving also has.
STOPPED_STATUS: Final = 75
INTERRUPTED_STATUS: Final = 130  # the shell's status for Ctrl-C
CLOSED_STATUS: Final = 141  # the shell's status for SIGPIPE: whoever read the output has gone
USAGE_STATUS: Final = 64  # sysexits.h's EX_USAGE: nothing was attempted


class Stopped(ChexjaxError):
    """A run was asked to stop, and has saved its state."""

    status = STOPPED_STATUS


class Interrupted(Stopped):
    """The same by Ctrl-C: the user does not want an automatic restart."""

    status = INTERRUPTED_STATUS


def printable(text: object) -> str:
    """The text as one safe line for a terminal: escapes, line breaks and bytes that are not UTF-8 are shown as codes.

    File names come from others; `\\x1b[2J` in one would clear the reader's screen.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def printable_lines(text: object) -> str:
    """`printable` for a text of several lines."""
    return "\n".join(map(printable, str(text).split("\n")))


def reason_of(error: Exception) -> str:
    """An exception's message, shortened to one line; its type if it has none."""
    return printable(str(error)[:200]) or type(error).__name__


def first_ten(names: Sequence[str]) -> str:
    """Counts the names and shows the first ten: ``"12: a.png, b.png, ... (2 more)"``; long names are cut."""
    shown = ", ".join(printable(name if len(name) <= _LONG else f"{name[:_LONG]}...") for name in names[:10])
    more = f", ... ({len(names) - 10} more)" if len(names) > 10 else ""
    return f"{len(names)}: {shown}{more}"


@contextmanager
def exit_with_message() -> Iterator[None]:
    """Ends a command with ``error: ...`` on stderr and status 1, not a traceback, for errors that a user can cause.

    A run that was asked to stop, and saved, ends with status 75 (start it again); after Ctrl-C with 130. A second
    Ctrl-C ends the process at once, with the same status and no further word. Where nobody reads the output any more
    (`| head`), it ends without a word.
    """
    try:
        with _prompt_interrupts():
            yield
            if sys.stdout is not None:
                sys.stdout.flush()  # a closed pipe is found here, and not at Python's end
    except Stopped as stopped:
        print(stopped, file=sys.stderr, flush=True)
        _end(stopped.status)
    except (ChexjaxError, OSError) as error:  # a full disk or a missing permission is for the user to fix, too
        if isinstance(error, BrokenPipeError) and _is_unread():
            _end(CLOSED_STATUS)
        fail(str(error))
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr, flush=True)
        _end(INTERRUPTED_STATUS)
    finally:
        if _is_unread():  # Python's last flush would fail, and say so
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_unread() -> bool:
    """Whether whoever read the output has gone."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # no output, or none of the system's
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


@contextmanager
def _prompt_interrupts() -> Iterator[None]:
    """Ctrl-C always ends the block, with `KeyboardInterrupt` or, while a library is loaded, the process at once.

    Libraries in the middle of loading catch the exception, or print a traceback; and there is nothing to save yet.
    """
    if not _is_python_interrupted():
        yield
        return
    before = sys.unraisablehook
    sys.unraisablehook = _repeat_interrupt
    signal.signal(signal.SIGINT, _interrupt)
    after: Callable[..., None] = signal.default_int_handler
    try:
        yield
    except (KeyboardInterrupt, Stopped):
        after = _wait_for_message
        raise
    finally:
        signal.signal(signal.SIGINT, after)
        sys.unraisablehook = before


def _wait_for_message(number: int, frame: FrameType | None) -> None:
    """The handler of a Ctrl-C that comes while the message about the first is written: it is one of the two."""


def _end(status: int) -> NoReturn:
    """Raises `SystemExit`; from now on Ctrl-C ends the process at once, not with a traceback through its last steps."""
    if _is_main_thread() and signal.getsignal(signal.SIGINT) in (_wait_for_message, _interrupt):
        is_interactive = hasattr(sys, "ps1")  # a notebook or a prompt goes on
        signal.signal(signal.SIGINT, signal.default_int_handler if is_interactive else lambda *_: os._exit(status))
    raise SystemExit(status) from None


def _is_python_interrupted() -> bool:
    """Whether Ctrl-C raises `KeyboardInterrupt` here: in the main thread, unless someone else has taken the signal."""
    return _is_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _interrupt(number: int, frame: FrameType | None) -> None:
    files = set()
    while frame is not None:
        files.add(frame.f_code.co_filename)
        frame = frame.f_back
    is_loading = any(file.startswith("<frozen importlib.") for file in files)
    processes = sys.modules.get("multiprocessing")
    if is_loading and not (processes and processes.active_children()):  # they would be left behind
        print("error: interrupted", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED_STATUS)
    raise KeyboardInterrupt


def _repeat_interrupt(lost: Any) -> None:
    """For `sys.unraisablehook`: an interrupt that nobody can catch is repeated in a moment.

    Python drops every exception that is raised in a `__del__`, in a callback of a weak reference or of the garbage
    collector (JAX has one), or where C code calls Python and cannot fail.
    """
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    # Not by `threading`, whose locks the interrupted code may hold. One at a time: a callback may lose several.
    if _repetition.acquire(blocking=False):
        _thread.start_new_thread(_interrupt_again, ())


def _interrupt_again() -> None:
    time.sleep(0.01)
    _repetition.release()
    if hasattr(signal, "pthread_kill"):  # wakes the main thread, too
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Holds Ctrl-C back until the block has ended: for calls that turn it into an error of their own."""
    if not _is_main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def warn(message: str) -> None:
    """Prints ``warning: message`` on stderr, where the program could continue."""
    print(f"warning: {printable_lines(message)}", file=sys.stderr, flush=True)


def fail(message: str, status: int = 1) -> NoReturn:
    """Prints ``error: message`` on stderr and exits with `status`."""
    print(f"error: {printable_lines(message)}", file=sys.stderr, flush=True)
    raise SystemExit(status)


@contextmanager
def usage() -> Iterator[None]:
    """Exits with `USAGE_STATUS` on an error that a user can cause: for what precedes the first film."""
    try:
        yield
    except ChexjaxError as error:
        fail(str(error), USAGE_STATUS)


def command(main: Callable[[], None]) -> Callable[[], None]:
    """Decorates the `main` of a command line: a ChexjaxError becomes a message and an exit status."""

    def wrapped() -> None:
        with exit_with_message():
            main()

    return wrapped
