"""A platform that is not here, and a GPU that is but stays unused, are named; nothing else gets the blame."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from chexjax.cli import COMMANDS
from chexjax.serve.command import LIBRARIES
from tests.untrained import save_untrained

UNSET = {"JAX_PLATFORMS", "JAX_PLATFORM_NAME", "CUDA_VISIBLE_DEVICES"}
ASK = """
from chexjax.devices import find_devices
from chexjax.errors import exit_with_message
with exit_with_message():
    find_devices()
    find_devices()
"""


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in UNSET} | settings
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"JAX_PLATFORMS": "cuda"}, ["no cuda here", "install 'chexjax[cuda]', or unset JAX_PLATFORMS"]),
        ({"JAX_PLATFORMS": "gpu"}, ["no gpu here", "install 'chexjax[cuda]', or unset JAX_PLATFORMS"]),
        ({"JAX_PLATFORMS": "tpu"}, ["no tpu here", "install 'chexjax[tpu]', or unset JAX_PLATFORMS"]),
        ({"JAX_PLATFORMS": "cpu,tpu"}, ["no cpu,tpu here", "install 'chexjax[tpu]'"]),
        ({"JAX_PLATFORMS": "gpus"}, ["no gpus here", "; unset JAX_PLATFORMS"]),
        ({"JAX_PLATFORM_NAME": "gpu"}, ["no gpu here", "or unset JAX_PLATFORM_NAME"]),
    ],
)
def test_a_platform_that_is_not_here(settings: dict[str, str], words: list[str]) -> None:
    done = run("-c", ASK, **settings)
    if not done.returncode:
        pytest.skip("this machine has it")
    assert done.returncode == 1
    assert done.stderr.startswith("error: JAX finds ")
    assert done.stderr.count("\n") == 1
    for part in words:
        assert part in done.stderr


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from chexjax.configs import common
    from tests.conftest import shrink

    return save_untrained(shrink(common.base()), tmp_path_factory.mktemp("run") / "run")


def test_every_command_asks_for_devices_first(workdir: Path, phantom_folder: Path, tmp_path: Path) -> None:
    """The checkpoint is whole, and no film is broken: neither is blamed."""
    film, out = str(next((phantom_folder / "images").iterdir())), f"--out={tmp_path / 'out'}"
    (tmp_path / "w.pth").touch()
    arguments = {
        "train": ["--config=configs/baseline.py", f"--workdir={tmp_path / 'new'}"],
        "evaluate": [f"--workdir={workdir}"],
        "predict": [f"--checkpoint={workdir}", film, out],
        "score": [f"--predictions={film}", f"--labels={film}"],
        "view": [f"--checkpoint={workdir}"],
        "prepare": [f"--dir={phantom_folder}", out],
        "clean": [film, out],
        "export": [f"--checkpoint={workdir}", out],
        "import-weights": ["--model=resnet18", str(tmp_path / "w.pth"), out],
        "check-maps": [f"--checkpoint={workdir}"],
        "probe": [f"--weights={workdir}", f"--films={phantom_folder}"],
        "study": ["--config=configs/study.py", f"--workdir={tmp_path / 'study'}"],
        "self-test": [],
        "serve": [f"--checkpoint={workdir}", "--port=0"],
    }
    assert COMMANDS.keys() - arguments.keys() == {"simulate", "verify"}  # they compute nothing
    if not all(map(find_spec, LIBRARIES)):
        del arguments["serve"]  # it says what to install
    for name, given in arguments.items():
        done = run("-m", "chexjax.cli", name, *given, JAX_PLATFORMS="nonsense")
        assert done.returncode == (64 if name in ("predict", "serve") else 1), name
        assert done.stderr.startswith("error: JAX finds no nonsense here"), (name, done.stderr)
        assert done.stderr.count("\n") == 1, (name, done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


@pytest.mark.parametrize(
    ("settings", "times"),
    [({}, 1), ({"JAX_PLATFORMS": "cpu"}, 0), ({"CUDA_VISIBLE_DEVICES": ""}, 0), ({"CUDA_VISIBLE_DEVICES": "-1"}, 0)],
)
def test_a_gpu_that_stays_unused_is_told_once_unless_that_is_wanted(
    settings: dict[str, str], times: int, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA Imaginary (UUID: GPU-1)'\n")
    tool.chmod(0o755)
    done = run("-c", ASK, PATH=f"{tmp_path}:{os.environ['PATH']}", **settings)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == times
    assert done.stderr.count("warning: there is GPU 0: NVIDIA Imaginary, but JAX computes on the CPU") == times


def test_a_restore_in_python_blames_no_checkpoint(workdir: Path) -> None:
    program = f"from chexjax import Classifier\nClassifier.from_checkpoint({str(workdir)!r})"
    done = run("-c", program, JAX_PLATFORMS="nonsense")
    assert done.stderr.splitlines()[-1].startswith("chexjax.errors.ConfigError: JAX finds no nonsense here")
