"""What the benchmarks compute beside the clock: figures compared, messages counted, times projected."""

import json
import statistics
from pathlib import Path

import pytest

from benchmarks import __main__ as all_of_them
from benchmarks.contest import noise, ratio, table, take_turns
from benchmarks.scaling import ASSUMED, all_reduces, project


def test_contestants_take_turns_and_the_first_call_does_not_count() -> None:
    calls: list[str] = []
    times = take_turns({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3)
    assert calls[:2] == ["a", "b"]
    assert all(sorted(calls[k : k + 2]) == ["a", "b"] for k in range(0, 8, 2))
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_ratio() -> None:
    assert ratio({"a": [1.0, 2.0, 9.0], "b": [4.0, 4.0, 0.5]}, "a", "b") == {"medians": 0.5, "best": 2.0}


def test_noise_is_shared_among_devices() -> None:
    batch = noise(8, 32)
    assert batch["image"].shape == (4, 2, 32, 32, 1)
    assert len({*batch["film"].ravel().tolist()}) == 8


def test_table() -> None:
    assert table(["a", "b"], [[1, "x"]]).splitlines() == ["| a | b |", "| --- | --- |", "| 1 | x |"]


def test_all_reduces_of_a_program() -> None:
    text = """
  %all-reduce.1 = f32[2,64]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0,1}}
  %all-reduce.2 = (f32[10]{0}, bf16[3,3]{1,0}, f32[]) all-reduce(%a, %b, %c), channel_id=2
  %y = f32[5]{0} add(%all-reduce.1, %z)
"""
    assert all_reduces(text) == [512, 40 + 18 + 4]


def test_a_projection_by_hand() -> None:
    row = {"model": "resnet50", "bytes": 100e6, "messages": 10}
    found = project(row, ASSUMED[0])
    compute, wire, waits = 256 / 6900, 2 * 7 / 8 * 100e6 / 300e9, 10 * 20e-6
    assert found["efficiency"] == pytest.approx(compute / (compute + wire + waits))


def test_two_files_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    for name, rate in (("before", 2.0), ("after", 3.0)):
        results = {"machine": {"device": name}, "benchmarks": {"scanline": {"rows": [{"name": "x", "rate": rate}]}}}
        (tmp_path / name).write_text(json.dumps(results))
    monkeypatch.setattr("sys.argv", ["benchmarks", "--compare", str(tmp_path / "before"), str(tmp_path / "after")])
    all_of_them.main()
    assert "| scanline/rows/0/rate | 2 | 3 | 1.500 |" in capsys.readouterr().out


def test_a_benchmark_that_fails_is_told_and_the_rest_goes_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(all_of_them, "ALL", {"nothing": [], "metrics": ["--films=3000", "--resamples=5"]})
    monkeypatch.setattr("sys.argv", ["benchmarks", "--quick", f"--out={tmp_path / 'all.json'}"])
    with pytest.raises(SystemExit) as ended:
        all_of_them.main()
    assert ended.value.code == 1
    found = json.loads((tmp_path / "all.json").read_text())["benchmarks"]
    assert found["nothing"] == {"failed": 1}
    assert found["metrics"]["films"] == 3000
    assert statistics.fmean(value for _, value in all_of_them.leaves(found["metrics"])) > 0
