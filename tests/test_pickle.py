"""No file is run by being read: no pickle, no eval, and files that would leave a mark if they were, leave none."""

import ast
import contextlib
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from chexjax.data.prepared import load, prepare
from chexjax.data.recipe import Recipe
from chexjax.errors import ChexjaxError, DataError
from chexjax.files import MANIFEST, write_manifest
from chexjax.models.torch_weights import ABOUT, ARRAYS, load_weights, read_state_dict
from chexjax.predict import as_film
from chexjax.workdir.restore import restore_best
from tests.untrained import save_untrained

PACKAGE = Path(__file__).parent.parent / "chexjax"
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "runpy", "code"}
CALLS = {"eval", "exec", "compile", "__import__"}
# By the name of the last attribute: what must be said in the same call, or None where nothing makes it safe.
ATTRIBUTES: dict[str, tuple[str, Any] | None] = {
    "read_pickle": None, "load_module": None, "import_module": None, "system": None, "popen": None,
    "unsafe_load": None, "full_load": None, "yaml.load": None,
    "np.load": ("allow_pickle", False), "torch.load": ("weights_only", True),
}  # fmt: skip


# `chexjax COMMAND` runs one of the modules in a table of its source, by a name that is a key there.
ALLOWED = {"cli.py": "imports runpy"}


def offences(source: str) -> list[str]:
    """What in a module could run a file that it reads, as `line: what`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"{node.lineno}: imports {name}" for name in names if name.split(".")[0] in MODULES]
        if not isinstance(node, ast.Call):
            continue
        said = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
        if isinstance(node.func, ast.Name) and node.func.id in CALLS:
            found.append(f"{node.lineno}: {node.func.id}()")
        if said.get("allow_pickle") or said.get("shell"):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
        if isinstance(node.func, ast.Attribute):
            name = ast.unparse(node.func)
            for attribute, needed in ATTRIBUTES.items():
                if f".{name}".endswith(f".{attribute}") and (needed is None or said.get(needed[0]) is not needed[1]):
                    found.append(f"{node.lineno}: {name}() without {needed}")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_in_the_package_runs_what_it_reads(path: Path) -> None:
    allowed = ALLOWED.get(str(path.relative_to(PACKAGE)), "nothing")
    assert not [offence for offence in offences(path.read_text()) if not offence.endswith(f": {allowed}")]


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "import joblib.pool", "eval(x)", "exec(x)", "yaml.load(x)",
        "np.load(x)", "np.load(x, allow_pickle=True)", "torch.load(x)", "torch.load(x, weights_only=False)",
        "f(x, allow_pickle=True)", "subprocess.run(x, shell=True)", "os.system(x)", "importlib.import_module(x)",
    ],
)  # fmt: skip
def test_the_scan_sees(line: str) -> None:
    assert offences(line)
    assert not offences("np.load(x, allow_pickle=False), torch.load(x, weights_only=True), re.compile(x), model.eval()")


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Absent; and a bomb does make it, when it is unpickled."""
    path = tmp_path / "mark"
    pickle.loads(pickle.dumps(Bomb(path)))
    path.rmdir()
    return path


def npy(mark: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("name", ["a.pth", "a.pth.tar", "a.pt", "a.safetensors", "zip.pth"])
def test_state_dicts(name: str, tmp_path: Path, mark: Path) -> None:
    data = pickle.dumps({"state_dict": {"conv1.weight": Bomb(mark)}})
    if name == "zip.pth":  # as torch writes since 1.6
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for member, content in (("data.pkl", data), ("version", b"3\n"), ("byteorder", b"little")):
                archive.writestr(f"archive/{member}", content)
        data = file.getvalue()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ChexjaxError):
        read_state_dict(tmp_path / name)
    assert not mark.exists()


def test_a_torch_file_that_torch_wrote(tmp_path: Path, mark: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": {"conv1.weight": torch.zeros(3)}, "epoch": Bomb(mark)}, tmp_path / "a.pth")
    with pytest.raises(ChexjaxError, match="nothing else is unpickled"):
        read_state_dict(tmp_path / "a.pth")
    assert not mark.exists()


def test_imported_weights(tmp_path: Path, mark: Path) -> None:
    (tmp_path / ABOUT).write_text('{"model": "resnet18", "mean": 0.5, "std": 0.25, "source": "a.pth"}')
    with zipfile.ZipFile(tmp_path / ARRAYS, "w") as archive:
        archive.writestr("params/head/kernel.npy", npy(mark))
    with pytest.raises(ChexjaxError, match="allow_pickle=False"):
        load_weights(tmp_path)
    (tmp_path / ARRAYS).write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ChexjaxError, match="no imported weights"):
        load_weights(tmp_path)
    assert not mark.exists()


def test_compressed_arrays_are_not_inflated(tmp_path: Path) -> None:
    (tmp_path / ABOUT).write_text('{"model": "resnet18", "mean": 0.5, "std": 0.25, "source": "a.pth"}')
    np.savez_compressed(tmp_path / ARRAYS, kernel=np.zeros(10**7))
    assert (tmp_path / ARRAYS).stat().st_size < 10**6
    with pytest.raises(ChexjaxError, match="compressed"):
        load_weights(tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.dcm", "a"])
def test_films(name: str, tmp_path: Path, mark: Path) -> None:
    for data in (pickle.dumps(Bomb(mark)), npy(mark)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError):
            as_film(tmp_path / name)
    assert not mark.exists()


def test_a_prepared_set_that_names_a_module(
    phantom_folder: Path, tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TFDS imports the modules that `features.json` names, and the working folder may be where they are looked for."""
    prepared = prepare(phantom_folder, tmp_path / "out", Recipe(size=16), progress=False)
    (tmp_path / "marker.py").write_text(f"import os; os.mkdir({str(mark)!r})")
    monkeypatch.syspath_prepend(tmp_path)
    features = prepared.path / "features.json"
    features.write_text(features.read_text().replace("tensorflow_datasets.core.features.text_feature", "marker"))
    write_manifest(prepared.path)
    with pytest.raises(DataError, match=r"a feature of class 'marker\.Text'"):
        load(prepared.path)
    assert not mark.exists()
    with pytest.raises(ValueError, match="Unrecognized FeatureConnector"):
        prepared.source("train")  # what would have been done with it
    assert mark.exists()


def test_checkpoints(tmp_path: Path, mark: Path, small_baseline: ConfigDict) -> None:
    """Each file of a checkpoint in turn becomes a pickle, and the manifest vouches for it."""
    workdir = save_untrained(small_baseline, tmp_path / "run")
    step = workdir / "checkpoints" / "1"
    files = [path for path in step.rglob("*") if path.is_file() and path.name != MANIFEST]
    assert len(files) > 4
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(pickle.dumps(Bomb(mark)))
        write_manifest(step)
        with contextlib.suppress(ChexjaxError):
            restore_best(workdir)
        path.write_bytes(whole)
    write_manifest(step)
    assert restore_best(workdir).step == 1
    assert not mark.exists()
