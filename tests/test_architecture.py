"""Who may import whom: an arrow that runs back is a fault of design, and fails here.

The commands stand on everything, and nothing on them, but for what `python -m` begins with: a package's `__main__`, a
module that keeps a command's name, and the lines under `if __name__ == "__main__":`.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "chexjax"

FLOOR = {"configs", "devices", "errors", "files", "findings", "formats", "lazy", "runtime"}
# Each room may use itself and what stands here; the order is that of the house, from the ground up.
ALLOWED = {
    "errors": set(),
    "findings": set(),
    "files": {"errors"},
    "configs": {"errors", "files"},
    "formats": set(),
    "lazy": set(),
    "templates": {"formats"},
    "runtime": {"errors", "files"},
    "devices": {"errors"},
    "scanline": FLOOR,
    "models": FLOOR,
    "data": FLOOR | {"scanline"},
    "workdir": FLOOR | {"data", "models"},
    "trust": FLOOR | {"data", "models", "workdir"},
    "explain": FLOOR | {"templates", "data", "models", "workdir", "trust"},
    "evaluation": FLOOR | {"templates", "data", "models", "workdir", "trust", "explain"},
    "training": FLOOR | {"data", "models", "workdir", "trust", "explain", "evaluation"},
    "dicom_out": FLOOR | {"data", "models", "workdir", "trust", "explain"},
    "predict": FLOOR | {"scanline", "data", "models", "workdir", "trust", "explain", "dicom_out"},
    "export": FLOOR | {"scanline", "data", "models", "workdir", "trust", "explain", "predict"},
    "serve": FLOOR | {"templates", "data", "models", "workdir", "trust", "explain", "dicom_out", "predict"},
    "viewer": FLOOR | {"scanline", "data", "models", "workdir", "trust", "explain", "predict"},
    "self_test": FLOOR | {"models", "workdir", "predict"},
    "main": FLOOR | {"training", "workdir"},
    "study": FLOOR | {"training", "evaluation", "data", "workdir"},
    "cli": {"errors"},  # it runs modules by name
}
ALLOWED["commands"] = FLOOR | set(ALLOWED) - {"cli"}
STARTS = {"data/chestxray14.py", "data/phantom.py", "predict/join.py", "training/checkpoints.py"}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_start(statement: ast.stmt) -> bool:
    """Whether the statement is run by `python -m` alone."""
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "__name__ == '__main__'"


def imported_rooms(path: Path) -> set[str]:
    names = set()
    module = ast.parse(path.read_text())
    module.body = [statement for statement in module.body if not is_start(statement)]
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module == "chexjax":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("chexjax."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("chexjax.")}
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        return
    allowed = ALLOWED[here] | {here}
    if path.name == "__main__.py" or path.relative_to(PACKAGE).as_posix() in STARTS:
        allowed |= {"commands"}
    assert imported_rooms(path) <= allowed


def test_nothing_below_training_names_it() -> None:
    for name in ("data", "workdir", "explain", "evaluation", "predict", "export", "serve", "viewer.py"):
        for path in [PACKAGE / name] if name.endswith(".py") else (PACKAGE / name).rglob("*.py"):
            assert "chexjax.training" not in path.read_text(), path


# Who may know ChestX-ray14's findings: its source and the simulation of it, the public name, weights of CheXNet's kind,
# those that read its tables (`prepare`, and `score` where the labels are its entry file), and the spelling of names
# across data sets.
NIH = {
    "__init__.py",
    "findings.py",
    "data/labels.py",
    "data/prepared.py",
    "data/sources/nih.py",
    "commands/simulate.py",
    "data/sources/phantom/drawing.py",
    "data/sources/phantom/table.py",
    "evaluation/predictions.py",
    "models/torch_weights.py",
}


def test_findings_come_from_the_films_and_not_from_a_list() -> None:
    named = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Name) and node.id == "FINDINGS")
        or (isinstance(node, ast.Attribute) and node.attr == "FINDINGS")
        or (isinstance(node, ast.ImportFrom) and any(alias.name == "FINDINGS" for alias in node.names))
    }
    assert named == NIH


def loaded_by(module: str) -> set[str]:
    """What a new process has in `sys.modules` after importing `module`."""
    program = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    return set(done.stdout.split())


def of_chexjax(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] == "chexjax"}


def test_predict_loads_neither_tfds_nor_the_simulator_nor_a_command() -> None:
    assert of_chexjax(loaded_by("chexjax.predict")) == {"chexjax", "chexjax.lazy", "chexjax.predict"}
    assert not loaded_by("chexjax.predict") & {"jax", "numpy", "PIL"}
    loaded = loaded_by("chexjax.predict.classifier, chexjax.predict.batch")
    unwanted = {"tensorflow_datasets", "tensorflow", "grain", "torch", "tkinter"}
    unwanted |= {f"chexjax.{name}" for name in ("training", "evaluation", "main", "study", "viewer", "export", "cli")}
    unwanted |= {"chexjax.data.prepared", "chexjax.data.chestxray14", "chexjax.data.phantom", "chexjax.data.films"}
    assert not loaded & unwanted
    assert not {name for name in loaded if name.startswith("chexjax.") and name.endswith(".__main__")}
    ours = of_chexjax(loaded)
    assert {name.split(".")[1] for name in ours if "." in name} == {
        "configs", "data", "devices", "dicom_out", "errors", "explain", "files", "findings", "formats", "lazy",
        "models", "predict", "runtime", "scanline", "templates", "trust", "workdir",
    }  # fmt: skip
    assert {name for name in ours if name.startswith("chexjax.data.")} == {
        f"chexjax.data.{name}"
        for name in (
            "augment", "dicom", "dicom_gate", "dicom_grey", "dicom_header", "images", "kinds", "recipe", "verdict"
        )
    }  # fmt: skip
    assert len(ours) <= 80  # 78 today, 22 of them the networks


def test_scoring_loads_neither_tfds_nor_what_draws() -> None:
    loaded = loaded_by("chexjax.evaluation.score")
    assert not loaded & {"tensorflow_datasets", "grain", "orbax.checkpoint", "matplotlib", "tkinter", "torch"}


def test_training_does_not_load_the_torch_that_tensorboardx_would_load(tmp_path: Path) -> None:
    """tensorboardX imports torch where it finds one: 2 s and 400 MB. Nor is scikit-learn needed to start."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is loaded')\n")
    program = """
import sys
from pathlib import Path
from chexjax.training import logging, loop
scalars = logging.Scalars(Path(sys.argv[1]), 0)
scalars.write(1, {"train/loss": 0.5})
scalars.close()
assert "sklearn" not in sys.modules
assert "torch" not in sys.modules
try:
    import torch
except SystemExit as told:  # later, who wants it finds it
    print(told)
"""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{PACKAGE.parent}"}
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "torch is loaded\n"), done.stderr
    assert list((tmp_path / "run").rglob("events.*"))


def test_one_module_knows_pmap() -> None:
    """All else asks `chexjax.devices`: a move to `jit` with shardings would then be made in one place."""
    message = ("pmap(", "import pmap", "flax.jax_utils", "import jax_utils", "pmean(", "device_put_replicated")
    who = {path.name for path in PACKAGE.rglob("*.py") if any(word in path.read_text() for word in message)}
    assert who <= {"devices.py", "layers.py"}  # a layer's mean over the batch takes the axis as an argument
