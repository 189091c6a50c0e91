"""The command `chexjax`: it lists the module commands, and runs each as `python -m` would."""

import importlib.util
import os
import signal
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


def started(name: str, *arguments: str) -> list[str]:
    """A command line that runs the command, and prints at its end what it has loaded."""
    program = (
        "import atexit, sys; from chexjax.cli import main\n"
        "atexit.register(lambda: print('LOADED', *sorted(sys.modules)))\n"
        "main()"
    )
    return [sys.executable, "-c", program, name, *arguments]


def started_module(module: str, *arguments: str) -> list[str]:
    """The same for `python -m module`."""
    program = (
        f"import atexit, runpy, sys; sys.argv = ['-m', *sys.argv[1:]]\n"
        f"atexit.register(lambda: print('LOADED', *sorted(sys.modules)))\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", program, *arguments]


# What a command's own help says, of most a flag.
FLAG = {
    "train": "--config", "evaluate": "--config", "predict": "--overlays", "score": "--against", "check-maps": "--cases",
    "view": "--prevalence", "prepare": "--enlarge", "simulate": "--artifact_kinds", "clean": "--axes",
    "export": "--platforms", "serve": "--max-wait-ms", "import-weights": "--fresh", "probe": "--stages",
    "study": "--config", "self-test": "Exit status", "verify": "--verify",
}  # fmt: skip
MODULES = {COMMANDS[name].module: flag for name, flag in FLAG.items()} | {
    "chexjax.evaluation.evaluate": "--uncertain",
    "chexjax.predict.join": "Exit status",
    "chexjax.data.chestxray14": "--enlarge",
    "chexjax.data.phantom": "--artifact_kinds",
    "chexjax.training.checkpoints": "--verify",
}


def check_help(command: list[str], flag: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    text, _, loaded = done.stdout.partition("LOADED")
    assert len(text.partition("\n")[0]) > 20  # a sentence that says what the command does
    assert flag in text
    assert not {"jax", "flax", "numpy", "PIL", "scipy", "matplotlib", "orbax", "torch"} & set(loaded.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_help_loads_no_library_that_computes(name: str) -> None:
    check_help(started(name, "--help"), FLAG[name])


@pytest.mark.parametrize("module", MODULES)
def test_nor_does_a_modules(module: str) -> None:
    check_help(started_module(module, "--help"), MODULES[module])


def test_evaluating_a_checkpoint_has_a_help_of_its_own() -> None:
    check_help(started("evaluate", "--checkpoint=x", "--help"), "--uncertain")


# What brings each command to the place where it loads JAX.
ENOUGH = {
    "train": ("--config=configs/dml.py", "--workdir=x"),
    "evaluate": ("--config=configs/dml.py", "--workdir=x"),
    "study": ("--config=configs/study.py", "--workdir=x"),
    "self-test": (),
}


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_while_libraries_are_loaded_is_one_line(name: str, tmp_path: Path) -> None:
    """A library that takes a minute to load stands for JAX: the command is interrupted in the midst of it."""
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("import time; print('loading', flush=True); time.sleep(60)")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    process = subprocess.Popen(
        [sys.executable, "-m", COMMANDS[name].module, *COMMANDS[name].arguments, *ENOUGH.get(name, ["x"])],
        env=environment | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "loading\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert message == "error: interrupted\n"
    assert process.returncode == 130


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
