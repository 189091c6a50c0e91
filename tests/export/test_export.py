"""What is exported gives the numbers that the workdir gives: without chexjax, and in torch."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from chexjax import export
from chexjax.commands import export as command
from chexjax.data import recipe
from chexjax.data.augment import normalize
from chexjax.errors import ConfigError
from chexjax.findings import FINDINGS
from chexjax.models.torch_weights import convert_state_dict
from chexjax.workdir.restore import restore_best
from tests.untrained import save_untrained


@pytest.fixture
def pair(small_dml: ConfigDict, tmp_path: Path) -> Path:
    small_dml.data.clean = True
    small_dml.networks.net2.shared_stages = 0  # four specialists beside a whole network
    return save_untrained(small_dml, tmp_path / "pair")


def expected_probabilities(workdir: Path, films: np.ndarray) -> dict[str, np.ndarray]:
    """By way of what preparation and evaluation call."""
    restored = restore_best(workdir)
    data = restored.config.data
    cleaned = recipe.clean_films(list(films), recipe.Recipe(size=data.size, clean=True)) if data.clean else films
    small = np.stack([recipe.shrink(film, data.size, data.enlarge) for film in cleaned])
    x = normalize(small[..., None], data.mean, data.std)
    return {
        name: np.asarray(jax.nn.sigmoid(model.apply(restored.variables[name], x)))
        for name, model in restored.models.items()
    }


RUN = """
import sys, numpy as np
from pathlib import Path
from jax import export
artefact = export.deserialize(bytearray(Path(sys.argv[1]).read_bytes()))
films = np.load(sys.argv[2])
for count in (1, len(films)):
    found = artefact.call(films[:count])
assert "chexjax" not in sys.modules and "flax" not in sys.modules
np.save(sys.argv[3], found)
print(*artefact.platforms)
"""


def run_command(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    """In this process: the small networks have no name elsewhere."""
    monkeypatch.setattr(sys, "argv", ["export", *flags])
    command.main()


def test_the_artefact_runs_without_chexjax(pair: Path, tmp_path: Path, monkeypatch) -> None:
    films = np.random.default_rng(1).integers(0, 256, (5, 70, 90), np.uint8)
    np.save(tmp_path / "films.npy", films)
    run_command(monkeypatch, f"--checkpoint={pair}", f"--out={tmp_path / 'all.bin'}", "--film=70x90")
    about = json.loads((tmp_path / "all.bin.json").read_text())
    assert about["findings"] == list(FINDINGS)
    assert about["networks"] == ["net1", "net2"]
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUN, "all.bin", "films.npy", "found.npy"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["cpu", "cuda", "tpu"]
    expected = expected_probabilities(pair, films)
    found = np.load(tmp_path / "found.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.mean(list(expected.values()), axis=0), atol=1e-6, rtol=0)
    assert np.ptp(found, axis=0).max() > 1e-4  # films differ


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--out=a.bin", "--platforms=gpu"), "--platforms=gpu; choose among cpu, cuda, tpu"),
        (("--out=a.bin", "--platforms="), "choose among cpu, cuda, tpu"),
        (("--out=a.onnx",), "add --to=onnx"),
        (("--out=a.onnx", "--to=torch"), "add --to=onnx"),
        (("--out=a.safetensors", "--to=onnx"), "add --to=torch"),
        (("--out=a.bin", "--int8=films"), "--int8 is for --to=onnx, not for --to=stablehlo"),
        (("--out=a", "--to=torch", "--raw"), "--raw is for --to=stablehlo or onnx, not for --to=torch"),
        (("--out=a", "--to=onnx", "--film=8x8"), "--film is for --to=stablehlo"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(flags: tuple[str, ...], message: str, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        run_command(monkeypatch, "--checkpoint=nowhere", *flags)
    assert end.value.code == 1
    assert message in capsys.readouterr().err


def test_one_network_of_a_pair(pair: Path) -> None:
    films = np.random.default_rng(2).integers(0, 256, (3, 40, 50), np.uint8)
    expected = expected_probabilities(pair, films)
    for name in ("net1", "net2"):
        found = jax.jit(export.create_program(restore_best(pair), name))(films)
        np.testing.assert_allclose(found, expected[name], atol=1e-6, rtol=0)
    assert np.abs(expected["net1"] - expected["net2"]).max() > 1e-3
    with pytest.raises(ConfigError, match="no network 'net3'; there are net1, net2, ensemble"):
        export.create_program(restore_best(pair), "net3")


@pytest.mark.parametrize("enlarge", ["bicubic", "area"])
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (64, 64, 64),
        (100, 70, 32),
        (1024, 1024, 224),
        (512, 640, 320),
        (30, 50, 64),
        (65, 64, 64),
        (300, 90, 32),
        (128, 128, 224),
    ],
)
def test_shrinking_and_enlarging_are_pillows_bit_for_bit(height: int, width: int, size: int, enlarge: str) -> None:
    film = np.random.default_rng(height).integers(0, 256, (height, width), np.uint8)
    film[: height // 2] = np.where(film[: height // 2] > 127, 255, 0)
    found = jax.jit(export.shrink, static_argnums=(1, 2))(film, size, enlarge)
    smaller = height < size and width < size
    way = Image.Resampling.BICUBIC if smaller and enlarge == "bicubic" else Image.Resampling.BOX
    rows_first = Image.fromarray(film).resize((size, height), way)
    np.testing.assert_array_equal(found, np.asarray(rows_first.resize((size, size), way)))
    np.testing.assert_array_equal(found, recipe.shrink(film, size, enlarge))


def test_a_film_that_is_smaller_one_way_only_is_enlarged_that_way_only() -> None:
    film = np.random.default_rng(1).integers(0, 256, (100, 40), np.uint8)
    wide = Image.fromarray(film).resize((64, 100), Image.Resampling.BICUBIC)
    expected = np.asarray(wide.resize((64, 64), Image.Resampling.BOX))
    np.testing.assert_array_equal(recipe.shrink(film, 64), expected)
    np.testing.assert_array_equal(jax.jit(export.shrink, static_argnums=1)(film, 64), expected)


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from chexjax.configs import baseline

    config = baseline.get_config("resnet18")
    config.data.update({"size": 64, "mean": 0.4, "std": 0.3})
    return save_untrained(config, tmp_path_factory.mktemp("export") / "run")


@pytest.mark.parametrize("channels", [1, 3])
def test_torch_gives_the_same_logits(resnet18: Path, tmp_path: Path, channels: int) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors")
    from tests.torch_networks import create_torch_network

    path = tmp_path / "out" / "weights.safetensors"
    command = [sys.executable, "-m", "chexjax.export", f"--checkpoint={resnet18}", f"--out={path}"]
    subprocess.run([*command, "--to=torch", f"--channels={channels}"], check=True, capture_output=True)
    with safetensors.safe_open(path, "pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no dict
        about = {key: json.loads(value) for key, value in file.metadata().items()}
    assert (about["model"], about["findings"], about["size"]) == ("resnet18", list(FINDINGS), 64)
    assert about["library"] == "torchvision"
    network = create_torch_network("resnet18", channels=channels).eval()
    network.load_state_dict(weights)  # strictly

    grey = np.random.default_rng(3).integers(0, 256, (2, 64, 64, 1), np.uint8)
    restored = restore_best(resnet18)
    expected = restored.models["net1"].apply(restored.variables["net1"], normalize(grey, 0.4, 0.3))
    x = (grey / np.float32(255) - np.float32(about["mean"])) / np.float32(about["std"])
    with torch.no_grad():
        found = network(torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_what_went_to_torch_comes_back(resnet18: Path) -> None:
    restored = restore_best(resnet18)
    arrays, _ = export.to_torch(restored, "ensemble", 1)
    back = convert_state_dict("resnet18", arrays, 1)
    jax.tree.map(np.testing.assert_array_equal, back, dict(restored.variables["net1"]))


def test_the_names_are_those_of_the_library_that_is_asked_for(tmp_path: Path) -> None:
    from chexjax.configs import baseline

    restored = restore_best(save_untrained(baseline.get_config("mobilenet_v2"), tmp_path / "run"))
    arrays, about = export.to_torch(restored, "ensemble", 3, "timm")
    assert json.loads(about["library"]) == "timm"
    assert {"conv_stem.weight", "blocks.6.0.conv_pwl.weight", "classifier.bias"} <= arrays.keys()
    torchvision, _ = export.to_torch(restored, "ensemble", 3)
    assert sorted(map(np.shape, arrays.values())) == sorted(map(np.shape, torchvision.values()))
    with pytest.raises(ConfigError, match="'transformers' are not known; there are torchvision, timm"):
        export.to_torch(restored, "ensemble", 3, "transformers")


def test_a_pair_needs_a_name_for_torch(pair: Path) -> None:
    with pytest.raises(ConfigError, match="choose --network= one of net1, net2"):
        export.to_torch(restore_best(pair), "ensemble", 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--film=1024"], "HEIGHTxWIDTH"),
        (["--network=net9"], "no network 'net9'"),
        (["--to=tflite"], "stablehlo|onnx|torch"),
        (["--out=."], "is a folder"),
    ],
)
def test_mistakes_are_told_in_a_line(
    pair: Path, tmp_path: Path, monkeypatch, capsys, flags: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run_command(monkeypatch, f"--checkpoint={pair}", "--out=x.bin", *flags)
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not Path("x.bin").exists()
