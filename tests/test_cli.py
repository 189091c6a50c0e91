"""The command `chexjax`: it lists the module commands, and runs each as `python -m` would."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chexjax.cli import COMMANDS

REPOSITORY = Path(__file__).parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What the console script does: an import, and a call."""
    program = "import sys; from chexjax.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=REPOSITORY, timeout=300
    )


def test_the_help_lists_every_command_at_once() -> None:
    began = time.perf_counter()
    done = run("--help")
    assert time.perf_counter() - began < 5  # 0.1 s on a quiet machine
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(COMMANDS)
    assert all(line.removeprefix(f"  {name}").strip() for line, name in zip(lines[2:], COMMANDS, strict=True))


def test_the_help_loads_neither_jax_nor_numpy() -> None:
    program = (
        "import sys, chexjax.cli as cli; sys.argv = ['chexjax', '--help']; cli.main(); print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "chexjax.cli" in loaded
    assert not loaded & {"jax", "numpy", "absl", "tqdm", "PIL"}


@pytest.mark.parametrize("arguments", [["prophesy"], [""], []])
def test_what_is_no_command_is_one_line_and_status_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert all(name in done.stderr for name in COMMANDS)
    assert not done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_module(name: str) -> None:
    assert importlib.util.find_spec(COMMANDS[name].module) is not None
    assert len(COMMANDS[name].about) < 80


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("train", "--config"),
        ("evaluate", "--config"),
        ("study", "--config"),
        ("verify", "--verify"),
        ("clean", "--axes"),
    ],
)
def test_a_commands_own_help(name: str, told: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert told in done.stdout


def test_a_command_does_what_its_module_does(tmp_path: Path) -> None:
    flags = ["--count=3", "--size=32", "--workers=2"]
    assert run("simulate", f"--out={tmp_path / 'a'}", *flags).returncode == 0
    command = [sys.executable, "-m", "chexjax.data.phantom", f"--out={tmp_path / 'b'}", *flags]
    assert subprocess.run(command, cwd=REPOSITORY, timeout=300).returncode == 0
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 7
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_mistakes_end_as_the_module_ends_them(tmp_path: Path) -> None:
    done = run("verify", str(tmp_path))
    assert (done.returncode, done.stderr) == (1, f"error: {tmp_path / 'checkpoints'} holds no checkpoint\n")
    done = run("evaluate", "--config=configs/dml.py")
    assert (done.returncode, done.stderr) == (2, "error: no workdir is given; add --workdir=DIR\n")
