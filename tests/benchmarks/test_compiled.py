"""What `benchmarks.compiled` computes itself, its children, and the plain networks that stand beside ours."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import chips, compiled
from benchmarks.plain import STAGES, create_plain
from benchmarks.programs import TRIAL, Form
from chexjax.models import create_model


@pytest.mark.parametrize("name", STAGES)
def test_plain_networks_have_our_shapes(name: str) -> None:
    film = jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)

    def parameters(model) -> list:
        return sorted(leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0), film)))

    assert parameters(create_plain(name)) == parameters(create_model(name))


def test_a_plain_network_computes_what_ours_does() -> None:
    """In the order of their creation the layers are the same ones."""
    film = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 1)), jnp.float32)
    ours, plain = create_model(TRIAL, width=0.125), create_plain(TRIAL, width=0.125)
    theirs, mine = jax.jit(plain.init)(jax.random.key(0), film), jax.jit(ours.init)(jax.random.key(1), film)
    kernels = theirs["params"]
    names = ["conv1", "layer1_0/conv1", "layer1_0/conv2", "layer2_0/conv1", "layer2_0/conv2", "layer2_0/downsample_0"]
    for number, name in enumerate(names):
        branch = mine["params"]["trunk"]
        for part in name.split("/"):
            branch = branch[part]
        branch["kernel"] = kernels[f"Conv_{number}"]["kernel"]
    mine["params"]["head"] = kernels["Dense_0"]
    wanted = jax.jit(plain.apply)(theirs, film)
    np.testing.assert_allclose(jax.jit(ours.apply)(mine, film), wanted, rtol=1e-4, atol=1e-4)
    assert np.ptp(wanted) > 0.1


def test_largest_batch_by_hand() -> None:
    # 3 bytes for all and 2 a film: 8 films are 19, 16 are 35; 100 bytes hold 48.5.
    assert compiled.largest_batch((8, 19), (16, 35), 100) == 48
    assert compiled.largest_batch((8, 19), (16, 35), 10) == 0
    assert compiled.largest_batch((8, 19), (16, 19), 100) == 0


def row(**found) -> dict:
    job = {"chip": "h200", "devices": 1, "program": "supervised:resnet50", "form": Form(64)._asdict()}
    return job | {"largest": 128, "confirmed": True, "seconds": 3.0, "kernels": 7, "loops": []} | found


def test_bounds_by_hand() -> None:
    found = row(bytes=4.8e12, flops=2 * 989e12, peak=2**30, collectives=[])
    assert compiled.bounds(found) == pytest.approx({"memory": 1.0, "arithmetic": 2.0, "films": 32.0})
    assert compiled.ideal(found) == pytest.approx(19_100)
    assert compiled.ideal(found | {"form": Form(64, dtype="float32")._asdict()}) is None


def test_the_table() -> None:
    peer = row(bytes=6e9, flops=1e12, peak=2**30, collectives=[]) | {"form": Form(64, plain=True)._asdict()}
    rows = [
        row(bytes=4.5e9, flops=1e12, peak=2**31, collectives=[["all-reduce", 2**20]], loops=[None]),
        peer,
        {"chip": "h200", "program": "clean", "form": Form(64)._asdict(), "failed": "aborts: x.cc:1 Check failed: y"},
    ]
    lines = compiled.format_rows(rows).splitlines()
    assert lines[2].startswith(
        "| supervised:resnet50 | bfloat16 | 3.0 | 7 a turn | 4.5 | 6 | 0.75 | 1 | 2 | 128* | 1, 1.00 MiB |"
    )
    assert "aborts: x.cc:1 Check failed: y" in lines[3]
    assert len(lines) == 4


def test_programs_by_kind_and_by_name() -> None:
    assert compiled.chosen("clean,evaluate:resnet18") == ["clean", "evaluate:resnet18"]
    assert compiled.chosen("supervised")[0] == "supervised:resnet18"
    with pytest.raises(ValueError, match="no program is called nonsense"):
        compiled.chosen("nonsense")


def test_why_a_process_died() -> None:
    words = "I0000 begins\nF1125 04:44:55.1 99 tiling.cc:627] Check failed: a == b (784 vs. 56)\n*** Check failure"
    assert compiled.why_it_died(words, -6) == "tiling.cc:627 Check failed: a == b (784 vs. 56)"
    assert compiled.why_it_died("", -9) == "status -9"


def test_a_child_that_is_aborted_ends_its_row_alone() -> None:
    """The jobs around it are done: by the same child before, by a new one after."""
    jobs = [
        {"chip": "h100", "devices": 1, "program": name, "form": Form(2)._asdict(), "largest": False}
        for name in ("nonsense:resnet18", "abort", "rubbish")
    ]
    reported: list[dict] = []
    rows = compiled.compile_all(jobs, reported.append)
    assert reported == rows
    assert [found["program"] for found in rows] == [job["program"] for job in jobs]
    assert rows[1]["failed"] == "aborts: nowhere.cc:1 Check failed: false"
    for found in (rows[0], rows[2]):
        assert found["failed"].startswith("fails: ")


def test_a_chip_without_its_compiler_is_left_out(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(chips, "missing", lambda name: f"nothing compiles for {name}")
    found = compiled.main(["--chip=v5e", f"--json={tmp_path / 'found.json'}"])
    assert "v5e: left out: nothing compiles for v5e" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["chips"] == found["chips"]
    assert found["chips"] == {"v5e": {"left_out": "nothing compiles for v5e"}}
