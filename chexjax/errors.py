"""What a user can cause: one family of exceptions, each a line or two on what was found, where, and what to do."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NoReturn

_LONG: Final = 400  # characters of a name that are shown


class ChexjaxError(Exception):
    """Something the user can mend. The message stands alone: no traceback is needed to act on it."""


class ConfigError(ChexjaxError):
    """A flag or a config field has a value that cannot be used."""


class DataError(ChexjaxError):
    """A film, a table or a prepared record set is missing, broken or contradicts another."""


class CheckpointError(ChexjaxError):
    """A workdir or a checkpoint is missing, broken, or was made by another configuration."""


class TrainingError(ChexjaxError):
    """Training cannot go on, most often because a loss is no longer finite."""


# sysexits.h's EX_TEMPFAIL, "invited to retry". Not 143: that is also the status of what SIGTERM killed unsaved.
STOPPED_STATUS: Final = 75
INTERRUPTED_STATUS: Final = 130  # what shells give for Ctrl-C


class Stopped(ChexjaxError):
    """A run was asked to stop, and has saved where it is."""

    status = STOPPED_STATUS


class Interrupted(Stopped):
    """The same by Ctrl-C: whoever pressed it does not want it to be started again at once."""

    status = INTERRUPTED_STATUS


def printable(text: object) -> str:
    """The text on one line of a terminal: escape codes, line breaks and bytes that are no UTF-8 are shown as codes.

    Names of files are other people's text; `\\x1b[2J` in one would clear the screen of whoever reads the message.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def printable_lines(text: object) -> str:
    """The same of a text of several lines."""
    return "\n".join(map(printable, str(text).split("\n")))


def reason_of(error: Exception) -> str:
    """What an exception says, on one line and not at length; its type where it says nothing."""
    return printable(str(error)[:200]) or type(error).__name__


def first_ten(names: Sequence[str]) -> str:
    """Counts the names and shows the first ten: ``"12: a.png, b.png, ... (2 more)"``; long ones not to their end."""
    shown = ", ".join(printable(name if len(name) <= _LONG else f"{name[:_LONG]}...") for name in names[:10])
    more = f", ... ({len(names) - 10} more)" if len(names) > 10 else ""
    return f"{len(names)}: {shown}{more}"


@contextmanager
def told_plainly() -> Iterator[None]:
    """Ends a command with ``error: ...`` on stderr and status 1, instead of a traceback, on what a user can cause.

    A run that was asked to stop, and saved, ends with status 75: it wants to be started again. After Ctrl-C it is 130.
    """
    try:
        yield
    except Stopped as stopped:
        print(stopped, file=sys.stderr, flush=True)
        raise SystemExit(stopped.status) from None
    except (ChexjaxError, OSError) as error:  # a full disk or a missing permission is the user's to mend, too
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted", status=INTERRUPTED_STATUS)


def warn(message: str) -> None:
    """Prints ``warning: message`` on stderr, for what the program got over by itself."""
    print(f"warning: {printable_lines(message)}", file=sys.stderr, flush=True)


def fail(message: str, status: int = 1) -> NoReturn:
    """Prints ``error: message`` on stderr and exits with `status`."""
    print(f"error: {printable_lines(message)}", file=sys.stderr, flush=True)
    raise SystemExit(status)


def command(main: Callable[[], None]) -> Callable[[], None]:
    """Decorates the `main` of a command line: a ChexjaxError becomes a message and an exit status."""

    def wrapped() -> None:
        with told_plainly():
            main()

    return wrapped
