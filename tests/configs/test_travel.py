"""The configs go where the package goes: `--config=configs/dml.py` is understood in any folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from chexjax.configs.arguments import PACKAGED

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package alone, as an installation has it: no configs/ beside it."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(REPOSITORY / "chexjax", folder / "chexjax", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def message(site: Path, where: Path, *config: str) -> str:
    """What the training command says of a field that the config does not have: it was found, and read."""
    where.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "chexjax.main", *config, "--workdir=x", "--config.mutual.wieght=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=where, env=environment, timeout=300)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr


@pytest.mark.parametrize(
    "config",
    [["--config=configs/dml.py:chestxray14"], ["--config", "configs/distill.py"], ["--config=dml:chestxray14"]],
)
def test_the_packages_configs_are_found_from_any_folder(site: Path, tmp_path: Path, config: list[str]) -> None:
    assert "weight" in message(site, tmp_path / "elsewhere", *config)


def test_a_file_of_ones_own_comes_first(site: Path, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    own = tmp_path / "configs" / "dml.py"
    own.write_text("def get_config(variant=''):\n    raise ValueError(f'my own {variant}')\n")
    assert "my own now" in message(site, tmp_path, "--config=configs/dml.py:now")
    own.write_text("from chexjax.configs import common\n\n\ndef get_config():\n    return common.base()\n")
    assert "weight" in message(site, tmp_path, "--config=configs/dml.py")


def test_other_names_mean_what_they_say(site: Path, tmp_path: Path) -> None:
    for path in ("dml.py", "elsewhere/dml.py", "configs/none.py", "configs/deeper/dml.py"):
        assert f"config file {path} does not exist; the package has configs/" in message(
            site, tmp_path, f"--config={path}"
        )


def test_the_packages_configs_are_listed() -> None:
    files = (REPOSITORY / "chexjax" / "configs").glob("*.py")
    runs = {file.stem for file in files if "\ndef get_config(" in file.read_text()}
    assert set(PACKAGED) == runs - {"saved"}


def test_the_wheel_holds_all_of_the_package(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="a wheel is built with hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    listed = subprocess.run(["git", "ls-files", "chexjax"], cwd=REPOSITORY, capture_output=True, text=True)
    wanted = {name for name in listed.stdout.splitlines() if (REPOSITORY / name).exists()}
    if listed.returncode:
        wanted = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "chexjax").rglob("*.py")}
    contained = set(zipfile.ZipFile(wheel).namelist())
    assert {"chexjax/configs/dml.py", "chexjax/evaluation/published.json"} <= wanted <= contained
    assert not {name for name in contained if name.startswith("configs/")}
