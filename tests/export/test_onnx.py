"""What ONNX files give in onnxruntime is what the workdir gives: every bit of a film, every network, every map."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export as jax_export
from ml_collections import ConfigDict
from PIL import Image

from chexjax.commands import export as command
from chexjax.configs import baseline
from chexjax.data.recipe import Recipe, shrink
from chexjax.errors import ConfigError
from chexjax.export import create_program, onnx_film, onnx_graph, to_onnx, to_stablehlo
from chexjax.export.onnx_file import IR, OPSET, to_int8
from chexjax.findings import FINDINGS
from chexjax.models import NETWORKS, architecture_of
from chexjax.predict import Classifier, read_thresholds
from chexjax.scanline import remove_artifacts_reference
from chexjax.trust.calibration import Calibration, Curve
from chexjax.trust.kept import Trust, write_trust
from chexjax.trust.selective import Bands
from chexjax.workdir.restore import Restored, restore_best
from tests.untrained import save_untrained

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run_film_graph(change, films: np.ndarray) -> np.ndarray:
    """uint8 films through the operators that `change(graph, name)` adds."""
    graph = onnx_graph.Graph("film_")
    result = change(graph, "films")
    uint8 = onnx.TensorProto.UINT8
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes, "film",
            [onnx.helper.make_tensor_value_info("films", uint8, [None] * 3)],
            [onnx.helper.make_tensor_value_info(result, uint8, [None] * 3)],
            [onnx.numpy_helper.from_array(array, name) for name, array in graph.arrays.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR,
    )  # fmt: skip
    onnx.checker.check_model(model, full_check=True)
    return open_session(model.SerializeToString()).run(None, {"films": films})[0]


def open_session(model: bytes):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("enlarge", ["bicubic", "area"])
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (64, 64, 64),
        (100, 70, 32),
        (512, 640, 320),
        (30, 50, 64),
        (65, 64, 64),
        (1, 1, 8),
        (333, 257, 31),
        (300, 90, 32),
    ],
)
def test_films_are_shrunk_as_in_training_bit_for_bit(height: int, width: int, size: int, enlarge: str) -> None:
    films = np.random.default_rng(height).integers(0, 256, (2, height, width), np.uint8)
    films[:, : height // 2] = np.where(films[:, : height // 2] > 127, 255, 0)
    found = run_film_graph(lambda graph, name: onnx_film.shrink(graph, name, size, enlarge), films)
    np.testing.assert_array_equal(found, [shrink(film, size, enlarge) for film in films])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threshold": 20, "max_width": 3},
        {"max_width": 2**31, "axes": "columns"},
        {"axes": "rows,columns", "spare_wide": True, "max_width": 4},
        {"edge_span": 3, "threshold": 90, "max_width": 6},
        {"edge_span": 2, "spare_wide": True, "threshold": 1, "max_width": 5},
    ],
)
def test_films_are_cleaned_as_the_scalar_rule_does_bit_for_bit(options: dict) -> None:
    recipe = Recipe(clean=True, **options)
    random = np.random.default_rng(len(str(options)))
    for levels, shape in ((256, (2, 9, 61)), (3, (1, 17, 40)), (256, (1, 1, 1)), (4, (1, 5, 2))):
        films = (random.integers(0, levels, shape) * (255 // (levels - 1))).astype(np.uint8)
        found = run_film_graph(lambda graph, name: onnx_film.remove_artifacts(graph, name, recipe), films)
        np.testing.assert_array_equal(found, remove_artifacts_reference(films, **recipe.cleaning))


def liven(restored: Restored, head: float = 1.0) -> Restored:
    """With statistics, scales and biases drawn at random: in deep networks those of `save_untrained` end in zeros.

    `head` scales the last layer. Deep ResNets end in logits of hundreds, whose rounding alone exceeds what is allowed.
    """
    random = np.random.default_rng(7)
    draws = {
        "mean": lambda shape: random.normal(0.0, 0.1, shape),
        "var": lambda shape: random.uniform(0.5, 1.5, shape),
        "scale": lambda shape: random.uniform(0.7, 1.3, shape),
        "bias": lambda shape: random.normal(0.0, 0.2, shape),
        "layer_scale": lambda shape: random.uniform(0.1, 0.3, shape),
    }

    def draw(path, leaf):
        if [part.key for part in path[-2:]] == ["head", "kernel"]:
            return leaf * head
        return draws[path[-1].key](leaf.shape).astype(np.float32) if path[-1].key in draws else leaf

    return dataclasses.replace(restored, variables=jax.tree_util.tree_map_with_path(draw, dict(restored.variables)))


def check(restored: Restored, films: np.ndarray) -> None:
    """The file against the `Classifier`: probabilities to 1e-5, maps to 1e-4 (of their size, where that is above 1)."""
    probabilities, *maps = open_session(to_onnx(restored)).run(None, {"films": films})
    expected = Classifier(restored, read_thresholds(restored)).predict(list(films))
    assert {each.dtype for each in (probabilities, *maps)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(probabilities, [each.probabilities for each in expected], atol=1e-5, rtol=0)
    if not all(model.has_map for model in restored.models.values()):
        assert not maps
        return
    truth = np.stack([each.maps for each in expected])
    np.testing.assert_allclose(maps[0], truth, atol=1e-4 * max(1.0, np.abs(truth).max()), rtol=0)
    assert np.ptp(truth, axis=(0, 1, 2)).min() > 1e-3  # there is something to compare


# The deeper of a family compile for long and are built of the same parts: with CHEXJAX_SOAK alone.
DEEPER = ("resnet101", "resnet152", "densenet169", "densenet201", "efficientnet_b3", "convnext_small")
LEFT_OUT = () if os.environ.get("CHEXJAX_SOAK") else DEEPER


@pytest.mark.parametrize("model", [name for name in NETWORKS if not name.startswith("tiny") and name not in LEFT_OUT])
def test_each_network(model: str, tmp_path: Path) -> None:
    config = baseline.get_config(model)
    config.networks.net1.width = 0.125
    config.data.update({"size": 56 if model.endswith("_14") else 64, "mean": 0.4, "std": 0.3})
    head = 0.1 if model in ("resnet50", "resnet101", "resnet152") else 1.0
    check(liven(restore_best(save_untrained(config, tmp_path / "run")), head), random_films(2, 70, 90))


def random_films(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width), np.uint8)


def test_an_ensemble_of_a_network_and_specialists_that_clean(small_dml: ConfigDict, tmp_path: Path) -> None:
    small_dml.data.clean = True
    small_dml.networks.net2.shared_stages = 0
    check(restore_best(save_untrained(small_dml, tmp_path / "pair")), random_films(3, 70, 90))


def test_branches_on_a_shared_part_beside_a_network_with_larger_maps(small_dml: ConfigDict, tmp_path: Path) -> None:
    small_dml.networks.net2.update({"shared_stages": 1, "model": "tiny2"})
    check(restore_best(save_untrained(small_dml, tmp_path / "pair")), random_films(1, 40, 33))


def test_one_file_takes_films_of_any_number_and_size(small_baseline: ConfigDict, tmp_path: Path) -> None:
    workdir = save_untrained(small_baseline, tmp_path / "run")
    session = open_session(to_onnx(restore_best(workdir)))
    classifier = Classifier.from_checkpoint(workdir)
    for films in (random_films(1, 32, 32), random_films(5, 20, 77), random_films(2, 200, 100)):
        probabilities, maps = session.run(None, {"films": films})
        expected = classifier.predict(list(films))
        np.testing.assert_allclose(probabilities, [each.probabilities for each in expected], atol=1e-5, rtol=0)
        np.testing.assert_allclose(maps, [each.maps for each in expected], atol=1e-4, rtol=0)


def test_probabilities_are_calibrated_by_every_kind_of_curve(small_dml: ConfigDict, tmp_path: Path) -> None:
    workdir = save_untrained(small_dml, tmp_path / "pair")
    restored = restore_best(workdir)
    kinds = [
        Curve(),
        Curve("temperature", slope=0.3),
        Curve("platt", slope=2.5, offset=-1.0),
        Curve("isotonic", knots=((0.1, 0.0), (0.49, 0.05), (0.51, 0.6), (0.9, 0.6))),
        Curve("platt", slope=0.5, offset=4.0, shift=-2.0),
    ]
    calibration = Calibration(tuple(kinds[k % 5] for k in range(14)), (0.1,) * 14)
    write_trust(restored, Trust({"ensemble": calibration}, {"ensemble": Bands(0.1, np.zeros(14), np.ones(14))}))
    films = random_films(4, 50, 50)
    found, _ = open_session(to_onnx(restored)).run(None, {"films": films})
    raw, _ = open_session(to_onnx(restored, raw=True)).run(None, {"films": films})
    np.testing.assert_allclose(found, calibration.apply(raw.astype(np.float64)), atol=1e-5, rtol=0)
    assert np.abs(found - raw).max() > 0.1
    stablehlo = jax_export.deserialize(bytearray(to_stablehlo(restored, (50, 50), platforms=["cpu"]))).call(films)
    np.testing.assert_allclose(stablehlo, found, atol=1e-5, rtol=0)
    np.testing.assert_allclose(jax.jit(create_program(restored, raw=True))(films), raw, atol=1e-5, rtol=0)
    one, _ = open_session(to_onnx(restored, "net1")).run(None, {"films": films})
    assert np.abs(one - found).max() > 0.1  # a single network has no calibration of the ensemble


def test_a_network_trained_in_bfloat16_computes_in_float32(small_baseline: ConfigDict, tmp_path: Path) -> None:
    """Its numbers are near those of the workdir, by bfloat16's 8 bits."""
    small_baseline.dtype = "bfloat16"
    workdir = save_untrained(small_baseline, tmp_path / "run")
    films = random_films(2, 40, 40)
    model = to_onnx(restore_best(workdir))
    probabilities, _ = open_session(model).run(None, {"films": films})
    expected = [each.probabilities for each in Classifier.from_checkpoint(workdir).predict(list(films))]
    np.testing.assert_allclose(probabilities, expected, atol=2e-2, rtol=0)
    kinds = {array.data_type for array in onnx.load_from_string(model).graph.initializer}
    assert onnx.TensorProto.BFLOAT16 not in kinds


def test_the_command_writes_what_a_stranger_needs(pair: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "net2.onnx"
    monkeypatch.setattr(sys, "argv", ["export", f"--checkpoint={pair}", f"--out={out}", "--to=onnx", "--network=net2"])
    command.main()
    message = capsys.readouterr().out
    assert f"opset {OPSET}, {out.stat().st_size / 1e6:.1f} MB" in message
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert about["findings"] == list(FINDINGS)
    assert about["thresholds"] == [None] * 14
    assert (about["networks"], about["step"], about["size"]) == (["net2"], 1, 32)
    assert about["weights"] == restore_best(pair).digest
    assert [node.name for node in session.get_outputs()] == ["probabilities", "maps"]


def test_eight_bits_stay_near(tmp_path: Path, phantom_folder: Path, small_baseline: ConfigDict, monkeypatch) -> None:
    workdir, out = save_untrained(small_baseline, tmp_path / "run"), tmp_path / "small.onnx"
    flags = [f"--checkpoint={workdir}", f"--out={out}", "--to=onnx", f"--int8={phantom_folder}"]
    monkeypatch.setattr(sys, "argv", ["export", *flags])
    command.main()
    films = np.stack([np.asarray(Image.open(path)) for path in sorted(phantom_folder.rglob("*.png"))[:8]])
    found, _ = open_session(out.read_bytes()).run(None, {"films": films})
    expected = np.stack([each.probabilities for each in Classifier.from_checkpoint(workdir).predict(list(films))])
    np.testing.assert_allclose(found, expected, atol=0.05, rtol=0)
    assert np.abs(found - expected).max() > 1e-6  # it is not the same network
    nodes = onnx.load(out).graph.node
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in nodes}


def test_eight_bits_keep_a_stem_whose_channels_differ_a_hundredfold(small_baseline: ConfigDict, tmp_path: Path) -> None:
    """An imported stem has an offset, so its norm, which makes the channels alike, cannot be folded into it."""
    restored = restore_best(save_untrained(small_baseline, tmp_path / "run"))
    variables = flatten_dict(restored.variables["net1"])
    stem = ("params", "trunk", architecture_of(small_baseline.networks.net1.model).stem, "kernel")
    filters = variables[stem].shape[-1]
    sizes = np.logspace(-2, 0, filters, dtype=np.float32)
    variables[stem] = variables[stem] * sizes
    variables[*stem[:-1], "offset"] = np.zeros((*variables[stem].shape[:2], 1, filters), np.float32)
    (norm,) = [path for path in variables if path[-1] == "var" and path[1:3] == ("trunk", "bn1")]
    variables[norm] = sizes**2
    restored = dataclasses.replace(restored, variables={"net1": unflatten_dict(variables)})
    films = random_films(8, 32, 32)
    exact = to_onnx(restored)
    (found, maps), (expected, truth) = (
        open_session(model).run(None, {"films": films}) for model in (to_int8(exact, films), exact)
    )
    np.testing.assert_allclose(found, expected, atol=0.01, rtol=0)
    assert np.abs(maps - truth).mean() < 0.04 * np.abs(truth).mean()  # 0.076 if the stem has 8 bits, too


def test_each_networks_first_layer_stays_in_floating_point(small_dml: ConfigDict, tmp_path: Path) -> None:
    small_dml.data.clean = True
    exact = to_onnx(restore_best(save_untrained(small_dml, tmp_path / "pair")))
    nodes = onnx.load_from_string(to_int8(exact, random_films(4, 32, 32))).graph.node
    quantised = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    layers = [node for node in nodes if node.op_type in ("Conv", "MatMul") and not node.name.startswith("film_")]
    plain = [node for node in layers if quantised.isdisjoint(node.input)]
    assert len(plain) == 2
    assert len(layers) > 4


def test_what_has_no_translation_is_named() -> None:
    with pytest.raises(ConfigError, match="'sort'"):
        onnx_graph.convert(jax.numpy.sort, onnx_graph.Graph(), "x", (3, 4), np.float32)


@pytest.fixture
def pair(small_dml: ConfigDict, tmp_path: Path) -> Path:
    return save_untrained(small_dml, tmp_path / "pair")


def test_without_onnx_the_extra_is_named(pair: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr(sys, "argv", ["export", f"--checkpoint={pair}", f"--out={tmp_path / 'a.onnx'}", "--to=onnx"])
    with pytest.raises(SystemExit):
        command.main()
    assert "pip install 'chexjax[onnx]'" in capsys.readouterr().err
    assert not list(tmp_path.glob("a.onnx*"))
