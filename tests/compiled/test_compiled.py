"""Our programs compile for a GPU and a TPU that are not there, and are what they should be.

Where XLA aborts its process, as it may while it compiles for a GPU, the program's test fails. Skipped where the chip's
compiler is not installed (with CHEXJAX_CHIPS=1 that is a failure); `.ci/run` installs both in an environment of their
own, see benchmarks/README.md.
"""

import os

import pytest

from benchmarks import chips
from benchmarks.compiled import Job, Row, compile_all
from benchmarks.programs import FILM, TRIAL, Form
from chexjax.models import NETWORKS

GPU, TPU = "h100", "v5e"
FULL = Form(batch=8)
SMALL = Form(batch=8, size=32, width=0.25, dtype="float32")
# Torchvision's table of its weights: giga multiply-adds of a film of 224 px with three channels.
PUBLISHED = {"resnet18": 1.814, "resnet34": 3.664, "resnet50": 4.089, "densenet121": 2.834, "densenet169": 3.360}
COLOUR_STEM = 112 * 112 * 7 * 7 * 3 * 64 / 1e9  # of these: a grey film needs a third
LATER = [name for name in NETWORKS if name not in PUBLISHED and not name.startswith("tiny")]
# jax 0.10 finds no tiles for a product of the transformers if it may write its kernel itself.
BY_CUBLAS = "--xla_gpu_enable_triton_gemm=false"
WIDE = {"resnet18": 17, "resnet34": 33, "resnet50": 17, "densenet121": 59, "densenet169": 83}  # convolutions above 1x1
STEPS = [
    f"supervised:{TRIAL}",
    f"alternating:{TRIAL}+{TRIAL}",
    f"simultaneous:{TRIAL}+{TRIAL}",
    f"distill:{TRIAL}+{TRIAL}",
    f"specialists:{TRIAL}",
    f"branches:{TRIAL}",
    f"resident:{TRIAL}",
]
SMALL_FORMS = [f"evaluate:{TRIAL}", f"predict:{TRIAL}", "clean", *STEPS]
EIGHT = f"supervised:{TRIAL}"


def job(chip: str, program: str, form: Form, devices: int = 1) -> Job:
    return {"chip": chip, "devices": devices, "program": program, "form": form._asdict(), "largest": False}


def compile_for(chip: str, jobs: dict[str, Job], flags: str = "") -> dict[str, Row]:
    if why := chips.missing(chip):
        (pytest.fail if os.environ.get("CHEXJAX_CHIPS") else pytest.skip)(why)
    return dict(zip(jobs, compile_all(list(jobs.values()), limit=200.0, flags=flags), strict=True))


@pytest.fixture(scope="module")
def on_gpu() -> dict[str, Row]:
    """The five networks at full width, the small forms, and a step on eight devices: all in a child or two."""
    jobs = {f"evaluate:{name}": job(GPU, f"evaluate:{name}", FULL) for name in PUBLISHED}
    jobs["clean, films of 1024 px"] = job(GPU, "clean", FULL)
    jobs["supervised:resnet18"] = job(GPU, "supervised:resnet18", FULL)
    jobs |= {name: job(GPU, name, SMALL) for name in SMALL_FORMS}
    jobs["eight"] = job(GPU, EIGHT, SMALL._replace(sync=False), devices=8)
    jobs["eight, one set of statistics"] = job(GPU, EIGHT, SMALL, devices=8)
    return compile_for(GPU, jobs)


@pytest.fixture(scope="module")
def later_on_gpu() -> dict[str, Row]:
    """The later networks at full width."""
    jobs = {name: job(GPU, f"evaluate:{name}", FULL) for name in LATER}
    return compile_for(GPU, jobs, BY_CUBLAS)


@pytest.fixture(scope="module")
def on_tpu() -> dict[str, Row]:
    """The small forms."""
    return compile_for(TPU, {name: job(TPU, name, SMALL) for name in SMALL_FORMS})


def compiled(rows: dict[str, Row], name: str) -> Row:
    """The row of a program; fails where there is none."""
    assert "failed" not in rows[name], f"{name}: {rows[name].get('failed')}"
    assert rows[name]["kernels"] > 0
    return rows[name]


def by_cudnn(row: Row) -> int:
    return sum(number for target, number in row["calls"].items() if target.startswith("__cudnn$conv"))


def check_no_cpu_form(row: Row) -> None:
    """Winograd's 36 products of a tile, and loops over a few films at a time, are for CPUs."""
    assert not [extents for extents in row["dots"] if len(extents) == 3 and extents[0] == 36]
    assert not [turns for turns in row["loops"] if turns]


@pytest.mark.parametrize("name", PUBLISHED)
def test_evaluation_on_a_gpu(on_gpu: dict[str, Row], name: str) -> None:
    """cuDNN has every convolution above 1x1, and no multiplication is done that the network does not ask for."""
    row = compiled(on_gpu, f"evaluate:{name}")
    assert by_cudnn(row) >= WIDE[name]
    wanted = (PUBLISHED[name] - COLOUR_STEM * 2 / 3) * 2e9 * FULL.batch
    assert row["flops"] == pytest.approx(wanted, rel=0.01)
    check_no_cpu_form(row)


@pytest.mark.parametrize("name", LATER)
def test_evaluation_of_later_networks_on_a_gpu(later_on_gpu: dict[str, Row], name: str) -> None:
    check_no_cpu_form(compiled(later_on_gpu, name))


def test_a_training_step_on_a_gpu(on_gpu: dict[str, Row]) -> None:
    """Three passes over the convolutions, but for the films' own gradient, which nobody needs."""
    row, evaluation = compiled(on_gpu, "supervised:resnet18"), compiled(on_gpu, "evaluate:resnet18")
    stem = COLOUR_STEM / 3 * 2e9 * FULL.batch
    assert row["flops"] == pytest.approx(3 * evaluation["flops"] - stem, rel=0.01)
    for target in ("__cudnn$convBackwardInput", "__cudnn$convBackwardFilter"):
        assert row["calls"].get(target, 0) > 0
    assert row["collectives"] == []
    check_no_cpu_form(row)


@pytest.mark.parametrize("name", SMALL_FORMS)
def test_small_forms_on_a_gpu(on_gpu: dict[str, Row], name: str) -> None:
    row = compiled(on_gpu, name)
    assert name == "clean" or by_cudnn(row) > 0
    assert row["collectives"] == []
    check_no_cpu_form(row)


def test_cleaning_on_a_gpu_is_a_few_passes(on_gpu: dict[str, Row]) -> None:
    """No loop, and no more bytes than let it reach 30 % of the speed of a copy, which moves two a pixel."""
    row, pixels = compiled(on_gpu, "clean, films of 1024 px"), FULL.batch * FILM**2
    assert row["loops"] == []
    assert 2 * pixels <= row["bytes"] <= 2 / 0.3 * pixels


def test_several_steps_are_one_loop_on_a_gpu(on_gpu: dict[str, Row]) -> None:
    """Of a length that the compiler does not know: one program serves every count."""
    once, several = compiled(on_gpu, f"supervised:{TRIAL}"), compiled(on_gpu, f"resident:{TRIAL}")
    assert None in several["loops"]
    assert several["flops"] == pytest.approx(once["flops"], rel=0.01)


def test_mutual_learning_costs_what_its_networks_do(on_gpu: dict[str, Row]) -> None:
    """Simultaneous updates: nothing beside the two supervised steps; alternating ones: one forward pass more."""
    one, forward = (compiled(on_gpu, f"{kind}:{TRIAL}")["flops"] for kind in ("supervised", "evaluate"))
    simultaneous, alternating = (
        compiled(on_gpu, f"{kind}:{TRIAL}+{TRIAL}")["flops"] for kind in ("simultaneous", "alternating")
    )
    assert simultaneous == pytest.approx(2 * one, rel=0.01)
    assert alternating == pytest.approx(2 * one + forward, rel=0.01)


def test_a_step_on_eight_gpus_sends_one_message(on_gpu: dict[str, Row]) -> None:
    """Gradients, statistics and measurements together, beside how many labels of each finding are known.

    With statistics over all devices there are small ones more, for norms.
    """
    alone, synced = compiled(on_gpu, "eight"), compiled(on_gpu, "eight, one set of statistics")
    count, size = sorted(size for _, size in alone["collectives"])
    assert count == 4 * 14
    assert {kind for kind, _ in alone["collectives"]} == {"all-reduce"}
    assert {kind for kind, _ in synced["collectives"]} == {"all-reduce"}
    largest, *others = sorted((size for _, size in synced["collectives"]), reverse=True)
    assert largest == size
    assert len(others) > 1
    assert sum(others) < size / 10


@pytest.mark.parametrize("name", SMALL_FORMS)
def test_small_forms_on_a_tpu(on_tpu: dict[str, Row], name: str) -> None:
    row = compiled(on_tpu, name)
    assert name == "clean" or row["calls"].get("convolution", 0) > 0
    assert row["collectives"] == []
