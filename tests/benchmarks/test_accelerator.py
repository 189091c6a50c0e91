"""One call on an accelerator: parts with deadlines, what is kept of them, and the table."""

import json
from pathlib import Path

import pytest

from benchmarks import accelerator
from benchmarks.accelerator import Finding, Part


def read(parts: dict) -> list[Finding]:
    return [
        Finding("rate", parts["rate"], 2.0),
        Finding("share", parts["share"], -0.5),
        Finding("count", parts["count"]),
    ]


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four parts of Python's own: one writes its figures, one fails, one sleeps, one needs more time than there is."""
    (tmp_path / "figures").write_text(json.dumps({"rate": 3.0, "share": 0.75, "count": 7}))

    def parts_of(out: Path, films: Path) -> list[Part]:
        def part(name: str, command: list[str], least: float = 0.0, most: float = 30.0) -> Part:
            return Part(name, command, None, least, most, out / "parts" / f"{name}.json", read)

        return [
            part("good", ["json.tool", str(tmp_path / "figures"), str(out / "parts" / "good.json")]),
            part("bad", ["json.tool", str(tmp_path / "nothing")]),
            part("slow", ["timeit", "-n", "1", "-r", "1", "import time; time.sleep(60)"], most=1.0),
            part("long", ["json.tool"], least=3600.0),
        ]

    monkeypatch.setattr(accelerator, "parts_of", parts_of)
    return tmp_path / "out"


def test_parts_are_run_and_what_is_missing_is_listed(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accelerator.main([f"--out={parts}"])
    text = (parts / "accelerator.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "| good | rate | 3 | at least 2 | met |" in text
    assert "| good | share | 0.75 | at most 0.5 | missed |" in text
    assert "| good | count | 7 |  |  |" in text
    missing = text.split("Left out or not finished:")[1]
    assert "- bad: failed with status" in missing
    assert "- slow: ended after 1 s" in missing
    assert "- long: no time" in missing
    assert "- good" not in missing
    written = json.loads((parts / "accelerator.json").read_text())
    assert written["parts"]["good"]["figures"] == {"rate": 3.0, "share": 0.75, "count": 7}


def test_a_second_call_does_only_what_is_missing(parts: Path) -> None:
    accelerator.main([f"--out={parts}"])
    logs = {name: (parts / "logs" / f"{name}.log").stat().st_mtime_ns for name in ("good", "bad")}
    accelerator.main([f"--out={parts}", "--only=good,bad"])
    assert (parts / "logs" / "good.log").stat().st_mtime_ns == logs["good"]
    assert (parts / "logs" / "bad.log").stat().st_mtime_ns > logs["bad"]
    text = (parts / "accelerator.md").read_text()
    assert "| good | rate | 3 |" in text
    assert "- slow: ended after 1 s" in text


def test_a_trial_is_not_mixed_with_figures(parts: Path) -> None:
    accelerator.main([f"--out={parts}", "--quick"])
    assert "- good: --quick leaves it out" in (parts / "accelerator.md").read_text()
    with pytest.raises(SystemExit):
        accelerator.main([f"--out={parts}"])


def test_what_the_benchmarks_write_is_read() -> None:
    ratio = {"medians": 1.25, "best": 1.3}
    step = {
        "model": "resnet50",
        "dtype": "bfloat16",
        "images_per_second": {"chexjax": 3000.0, "torch.compile": 2400.0},
        "torch_over_chexjax": {"torch eager": ratio, "torch.compile": {"medians": 1.1, "best": 1.1}},
        "share_of_bounds": [None, 0.4],
    }
    rate, eager, compiled, fused = accelerator.read_train_step({"steps": [step]})
    assert (rate.value, eager.is_met, compiled.is_met) == (3000.0, None, False)
    assert fused == Finding("resnet50, bfloat16: share of the bound by ideal fusion", 0.4)
    alternating, simultaneous = accelerator.read_mutual(
        {"models": "a,b", "over_sum": {"alternating": 1.1, "simultaneous": 1.1}}
    )
    assert (alternating.is_met, simultaneous.is_met) == (True, False)
    rows = [{"name": name, "films": "real", "batch": 64, "share_of_copy": 0.31} for name in ("chexjax", "NumPy")]
    (scanline,) = accelerator.read_scanline({"results": rows})
    assert scanline.is_met


def test_every_part_has_a_command_that_exists(tmp_path: Path) -> None:
    for part in accelerator.parts_of(tmp_path, tmp_path):
        module = Path(accelerator.REPOSITORY, *part.command[0].split(".")).with_suffix(".py")
        assert module.exists()
        assert any(str(tmp_path) in argument for argument in part.command)
