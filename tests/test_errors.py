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


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["score", "--help"], ["predict", "--help"]])
def test_a_reader_who_leaves_early_is_no_error(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "chexjax.cli", *words]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=50)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_broken_pipe_in_the_middle_of_a_table_ends_the_command(tmp_path: Path) -> None:
    program = (
        "from chexjax.errors import exit_with_message\nwith exit_with_message():\n    while True: print('line ' * 1000)"
    )
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{program}" | head -n 1; echo "${{PIPESTATUS[0]}}"'],
        capture_output=True, text=True, timeout=50, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "141"
