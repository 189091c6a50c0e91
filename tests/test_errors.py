"""Ctrl-C is one line and status 130, wherever it finds a command; a closed pipe ends it without a word."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chexjax.errors import interrupts_held

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

BODIES = {
    "at work": "signal.raise_signal(signal.SIGINT); time.sleep(60)",
    "in a library that turns every exception into its own": "import swallowing",
    "in JAX's callback of the garbage collector": """
        def _xla_gc_callback(*_):
            signal.raise_signal(signal.SIGINT)
        gc.callbacks.append(_xla_gc_callback)
        gc.collect()
        gc.callbacks.clear()
        time.sleep(60)""",
    "and again while the command ends": """
        def press_again():
            signal.raise_signal(signal.SIGINT)
        errors.print = lambda *words, **options: (press_again(), print(*words, **options), press_again())
        atexit.register(time.sleep, 60)
        atexit.register(press_again)
        signal.raise_signal(signal.SIGINT)""",
    "in a finaliser": """
        class Finalised:
            def __del__(self):
                signal.raise_signal(signal.SIGINT)
        Finalised()
        time.sleep(60)""",
    "in a callback of a weak reference": """
        class Referred:
            pass
        referred = Referred()
        reference = weakref.ref(referred, lambda _: signal.raise_signal(signal.SIGINT))
        del referred
        time.sleep(60)""",
    "in Python that C calls": """
        back = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))
        back()
        time.sleep(60)""",
    "in a call that turns every exception into its own": """
        with interrupts_held():
            try:
                signal.raise_signal(signal.SIGINT)
            except BaseException:
                raise ValueError from None
        time.sleep(60)""",
}
PROGRAM = """
import atexit, ctypes, gc, signal, time, weakref
from chexjax import errors
from chexjax.errors import interrupts_held, exit_with_message
with exit_with_message():
    if True:
        {body}
"""


@pytest.mark.parametrize("where", BODIES)
def test_an_interrupt_is_one_line(where: str, tmp_path: Path) -> None:
    (tmp_path / "swallowing.py").write_text(
        "import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept BaseException:\n    raise ImportError"
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=BODIES[where])],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parent.parent}"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


def test_interrupts_are_held_back_and_the_handler_stays() -> None:
    before, reached = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            reached.append("the end")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["the end"]
    assert signal.getsignal(signal.SIGINT) is before


def test_what_else_cannot_be_raised_is_shown_as_ever() -> None:
    program = """
        class Finalised:
            def __del__(self):
                raise ValueError("not mine")
        Finalised()"""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=program)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0
    assert "Exception ignored in" in done.stderr
    assert "ValueError: not mine" in done.stderr


def without_a_reader(*command: str) -> tuple[int, str]:
    """Exit status and stderr of a process whose output nobody reads."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, *command], stdout=write, stderr=subprocess.PIPE, text=True, timeout=50,
        cwd=Path(__file__).parent.parent, env=os.environ | {"PYTHONUNBUFFERED": ""},
    )  # fmt: skip
    os.close(write)
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["score", "--help"], ["predict", "--help"]])
def test_a_reader_who_leaves_early_is_no_error(words: list[str]) -> None:
    status, message = without_a_reader("-m", "chexjax.cli", *words)
    assert message == ""
    assert status in (0, 141)  # absl has ended the command by itself, or not


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("while True: print('line ' * 1000)", 141, ""),
        ("print('a table')", 141, ""),
        ("raise errors.Stopped('stopped after step 3')", 75, "stopped after step 3\n"),
        ("print('a table'); raise errors.Stopped('stopped after step 3')", 75, "stopped after step 3\n"),
        ("print('a table'); raise errors.DataError('films are broken')", 1, "error: films are broken\n"),
        ("print('a table'); raise KeyboardInterrupt", 130, "error: interrupted\n"),
        ("print('a table'); raise SystemExit(64)", 64, ""),
    ],
)
def test_without_a_reader_a_command_ends_as_it_would_have(body: str, status: int, message: str) -> None:
    program = f"from chexjax import errors\nwith errors.exit_with_message():\n    {body}"
    assert without_a_reader("-c", program) == (status, message)


def test_another_broken_pipe_is_an_error() -> None:
    program = (
        "import os\nfrom chexjax import errors\nread, write = os.pipe()\nos.close(read)\n"
        "with errors.exit_with_message():\n    os.write(write, b'to a worker that died')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (1, "error: [Errno 32] Broken pipe\n")
