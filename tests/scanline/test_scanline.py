"""The scan-line rule: by hand, by a second reading of the rule's text, and by random films; then the command line."""

import csv
import functools
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chexjax.commands import clean as command
from chexjax.data import cleaning
from chexjax.data.images import read_grey
from chexjax.scanline import accelerators, cpu, remove_artifacts, remove_artifacts_reference
from chexjax.scanline.accelerators import clean_words

WIDTH = 24  # of the hypothesis films: small shapes, one compilation each


def second_reading(row: list[int], threshold: int, max_width: int) -> list[int]:
    """DESIGN.md's words once more, by recursion: what is left to do once the scan has come to pixel `at`."""

    def scan(at: int) -> None:
        ups = [i for i in range(max(at, 1), len(row)) if row[i] - row[i - 1] >= threshold]
        if not ups:
            return
        i = ups[0]
        downs = [j for j in range(i + 1, len(row)) if row[j - 1] - row[j] >= threshold]
        if downs and downs[0] - i <= max_width:
            for k in range(i, downs[0]):
                cleaned[k] = (row[i - 1] + row[downs[0]]) // 2
            scan(downs[0] + 1)
        else:
            scan(i + 1)

    cleaned = list(row)
    scan(1)
    return cleaned


# The rule


BY_HAND = {  # threshold 50, max_width 4
    "one pixel": ([10, 90, 20, 20], [10, 15, 20, 20]),
    "exactly as wide as allowed": ([10, 90, 90, 90, 90, 20], [10, 15, 15, 15, 15, 20]),
    "one too wide": ([10, 90, 90, 90, 90, 90, 20], [10, 90, 90, 90, 90, 90, 20]),
    "jump of exactly 50": ([10, 60, 10], [10, 10, 10]),
    "jump of 49 up": ([10, 59, 5], [10, 59, 5]),
    "jump of 49 down": ([10, 70, 21], [10, 70, 21]),
    "odd mean rounds down": ([10, 90, 21], [10, 15, 21]),
    "mean of 200 and 202 does not overflow": ([200, 255, 202], [200, 201, 202]),
    "up at the left border": ([0, 255, 0, 0], [0, 0, 0, 0]),
    "down at the right border": ([9, 9, 200, 7], [9, 9, 8, 7]),
    "bright left border has no up-edge": ([255, 0, 0], [255, 0, 0]),
    "bright right border has no down-edge": ([0, 0, 255], [0, 0, 255]),
    "touching pairs share an end": ([0, 100, 20, 120, 40], [0, 10, 20, 30, 40]),
    "two steps up: the first counts": ([0, 60, 120, 10], [0, 5, 5, 10]),
    "two steps down: the first counts": ([0, 120, 60, 0], [0, 30, 60, 0]),
    "first up too far, second near": ([0, 60, 60, 60, 120, 120, 0], [0, 60, 60, 60, 30, 30, 0]),
    "down before up": ([100, 20, 90, 30], [100, 20, 25, 30]),
    "a ramp is no edge": ([0, 30, 60, 90, 0], [0, 30, 60, 90, 0]),
    "wrap-around: 250 to 44 is no rise by 50": ([250, 44, 250, 44], [250, 44, 44, 44]),
    "wrap-around: 5 to 211 is no fall by 50": ([5, 211, 211, 5], [5, 5, 5, 5]),
    "all black": ([0] * 6, [0] * 6),
    "all white": ([255] * 6, [255] * 6),
    "one pixel wide": ([200], [200]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name: str) -> None:
    row, wanted = BY_HAND[name]
    assert second_reading(row, 50, 4) == wanted
    film = np.array([row], np.uint8)
    assert remove_artifacts_reference(film, 50, 4).tolist() == [wanted]
    # A plateau to the right adds no edge, and makes all rows one shape.
    padded = np.pad(film, ((0, 0), (0, WIDTH - len(row))), mode="edge")
    cleaned = np.asarray(remove_artifacts(padded, 50, 4))
    assert cleaned.dtype == np.uint8
    assert cleaned[:, : len(row)].tolist() == [wanted]
    assert (cleaned[:, len(row) :] == wanted[-1]).all()


films = st.lists(
    st.one_of(
        st.lists(st.integers(0, 255), min_size=WIDTH, max_size=WIDTH),
        st.lists(st.sampled_from([0, 5, 49, 50, 99, 100, 205, 206, 250, 255]), min_size=WIDTH, max_size=WIDTH),
        # plateaus: a few levels, each a few pixels long
        st.lists(st.tuples(st.integers(0, 255), st.integers(1, 9)), min_size=WIDTH, max_size=WIDTH).map(
            lambda runs: [level for level, length in runs for _ in range(length)][:WIDTH]
        ),
    ),
    min_size=3,
    max_size=3,
).map(lambda rows: np.array(rows, np.uint8))
thresholds = st.one_of(st.sampled_from([1, 49, 50, 51, 254, 255]), st.integers(1, 255))
widths = st.one_of(
    st.sampled_from([1, 2, 3, 4, 7, 8, WIDTH - 2, WIDTH - 1, WIDTH, 10**6, 10**12]), st.integers(1, WIDTH)
)


@functools.cache
def traced(edge_span: int, spare_wide: bool):
    return jax.jit(functools.partial(remove_artifacts, edge_span=edge_span, spare_wide=spare_wide))


@functools.cache
def word_form(edge_span: int, spare_wide: bool):
    """The accelerators' form, which a CPU never chooses by itself."""
    return jax.jit(functools.partial(clean_words, edge_span=edge_span, spare_wide=spare_wide))


@settings(max_examples=100, deadline=None)
@given(films, thresholds, widths)
def test_any_row_any_numbers(film: np.ndarray, threshold: int, max_width: int) -> None:
    wanted = [second_reading(row, threshold, max_width) for row in film.tolist()]
    assert remove_artifacts_reference(film, threshold, max_width).tolist() == wanted
    assert np.asarray(remove_artifacts(film, threshold, max_width)).tolist() == wanted
    t, w = np.uint8(threshold), np.int32(min(max_width, 10**6))
    assert np.asarray(traced(1, False)(film, t, w)).tolist() == wanted
    assert np.asarray(word_form(1, False)(film, t, w)).tolist() == wanted


@settings(max_examples=100, deadline=None)
@given(films, thresholds, widths, st.sampled_from([(3, False), (1, True)]))
def test_options_on_any_row(film: np.ndarray, threshold: int, max_width: int, options: tuple[int, bool]) -> None:
    span, spare = options
    wanted = remove_artifacts_reference(film, threshold, max_width, edge_span=span, spare_wide=spare)
    t, w = np.uint8(threshold), np.int32(min(max_width, 10**6))
    assert np.array_equal(traced(span, spare)(film, t, w), wanted)
    assert np.array_equal(word_form(span, spare)(film, t, w), wanted)


@pytest.mark.parametrize("shape", [(7, 1), (1, 2), (17, 64), (2, 3, 5, 31), (0, 4), (4, 0), (0, 8, 8)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    film = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    cleaned = remove_artifacts(film)
    assert isinstance(cleaned, jax.Array)
    assert cleaned.shape == shape
    assert cleaned.dtype == jnp.uint8
    assert np.array_equal(cleaned, remove_artifacts_reference(film))
    if film.size:
        word_form_result = word_form(1, False)(film.reshape(-1, shape[-1]), np.uint8(50), np.int32(40))
        assert np.array_equal(word_form_result.reshape(shape), cleaned)


def test_noise_at_full_width() -> None:
    film = np.random.default_rng(1).integers(0, 256, (96, 1024), dtype=np.uint8)
    wanted = remove_artifacts_reference(film)
    assert (wanted != film).mean() > 0.4
    assert np.array_equal(remove_artifacts(film), wanted)
    assert np.array_equal(word_form(1, False)(film, np.uint8(50), np.int32(40)), wanted)


@pytest.mark.parametrize("windows", [1, 2, 16])
def test_chunks_that_do_not_divide_the_rows(windows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last chunk then begins in the one before it, whose rows must not be cleaned a second time; windows too."""
    monkeypatch.setattr(cpu, "CHUNK", 3 * 8 * 40)
    monkeypatch.setattr(cpu, "WINDOWS", windows)  # all three octets of a chunk at a time, two, or one
    film = np.random.default_rng(2).integers(0, 256, (8 * 7 + 5, 40), dtype=np.uint8)
    once = remove_artifacts_reference(film, 20, 12)
    assert not np.array_equal(once, remove_artifacts_reference(once, 20, 12)), "this film could not show the fault"
    clean = functools.partial(cpu.clean_octets, steps=4, edge_span=1, spare_wide=False)
    assert np.array_equal(jax.jit(clean)(film, jnp.uint8(20), jnp.int32(12)), once)


def test_batches_of_more_pixels_than_can_be_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The accelerators' form then goes over parts, odd numbers of rows too."""
    film = np.random.default_rng(3).integers(0, 256, (13, 40), dtype=np.uint8)
    monkeypatch.setattr(accelerators, "MOST", 3 * 40)
    clean = functools.partial(clean_words, edge_span=1, spare_wide=False)
    assert np.array_equal(jax.jit(clean)(film, jnp.uint8(20), jnp.int32(12)), remove_artifacts_reference(film, 20, 12))


# JAX


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def test_jit_vmap_pmap() -> None:
    batch = noise(len(jax.local_devices()), 3, 16, WIDTH)
    wanted = remove_artifacts_reference(batch, 50, 3)
    clean = functools.partial(remove_artifacts, threshold=50, max_width=3)
    for transformed in (jax.jit(clean), jax.vmap(clean), jax.vmap(jax.vmap(clean)), jax.pmap(clean)):
        assert np.array_equal(transformed(batch), wanted)
    moved = np.moveaxis(batch[0], 0, 2)
    assert np.array_equal(jax.vmap(clean, in_axes=2)(moved), wanted[0])


def test_vmap_is_not_slower_than_a_batch() -> None:
    """JAX's own vmap of a while loop would select over the whole batch in each round."""
    text = jax.jit(jax.vmap(remove_artifacts)).lower(noise(5, 16, WIDTH)).as_text()
    whole = jax.jit(remove_artifacts).lower(noise(5, 16, WIDTH)).as_text()
    for operation in ("stablehlo.select", "stablehlo.while"):  # another while would be one film after the other
        assert text.count(operation) == whole.count(operation) > 0


def test_vmap_over_the_numbers() -> None:
    film, t, w = noise(16, WIDTH), np.array([1, 50, 255]), np.array([1, 7, 40])
    wanted = [remove_artifacts_reference(film, *pair) for pair in zip(t, w, strict=True)]
    assert np.array_equal(jax.vmap(remove_artifacts, (None, 0, 0))(film, t, w), wanted)
    wanted = [remove_artifacts_reference(film, threshold) for threshold in t]
    assert np.array_equal(jax.vmap(remove_artifacts, (None, 0))(film, t), wanted)


def test_one_compilation_serves_all_traced_numbers() -> None:
    count = 0

    @jax.jit
    def clean(film, threshold, max_width):
        nonlocal count
        count += 1
        return remove_artifacts(film, threshold, max_width)

    film = noise(16, WIDTH)
    for threshold, max_width in ((50, 40), (1, 1), (255, 3), (20, 23)):
        assert np.array_equal(clean(film, threshold, max_width), remove_artifacts_reference(film, threshold, max_width))
    assert count == 1
    for unchecked, clipped in (((0, 5), (1, 5)), ((300, 5), (255, 5)), ((30, -2), (30, 1))):
        assert np.array_equal(clean(film, *unchecked), remove_artifacts_reference(film, *clipped))


def test_numbers_may_be_arrays() -> None:
    film = noise(16, WIDTH)
    wanted = remove_artifacts_reference(film, 30, 9)
    for kind in (np.int64, np.uint8, jnp.int32, jnp.uint8):
        assert np.array_equal(remove_artifacts(film, kind(30), kind(9)), wanted)
        assert np.array_equal(remove_artifacts_reference(film, kind(30), kind(9)), wanted)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((4, 4), np.float32), {}, r"uint8.*got float32 of shape \(4, 4\).*\[0, 1\]"),
        (np.zeros((4, 4), np.int32), {}, r"uint8.*got int32"),
        (np.zeros((4, 4), bool), {}, r"uint8.*got bool"),
        ([[1, 2], [3, 4]], {}, r"uint8.*got int64"),
        (np.zeros(4, np.uint8), {}, r"\(\.\.\., H, W\).*\(4,\)"),
        (np.uint8(3), {}, r"got shape \(\)"),
        (np.zeros((4, 4), np.uint8), {"threshold": 0}, "threshold.*1 to 255; got 0"),
        (np.zeros((4, 4), np.uint8), {"threshold": 256}, "threshold.*got 256"),
        (np.zeros((4, 4), np.uint8), {"threshold": 0.2}, "threshold.*whole number.*got 0.2"),
        (np.zeros((4, 4), np.uint8), {"threshold": jnp.int32(-1)}, "threshold.*-1"),
        (np.zeros((4, 4), np.uint8), {"threshold": np.array([50, 50])}, "threshold"),
        (np.zeros((4, 4), np.uint8), {"max_width": 0}, "max_width.*at least 1; got 0"),
        (np.zeros((4, 4), np.uint8), {"max_width": 2.5}, "max_width.*got 2.5"),
        (np.zeros((4, 4), np.uint8), {"edge_span": 0}, "edge_span.*got 0"),
        (np.zeros((4, 4), np.uint8), {"axes": ()}, r"axes.*got \(\)"),
        (np.zeros((4, 4), np.uint8), {"axes": (0,)}, r"axes.*got \(0,\)"),
        (np.zeros((4, 4), np.uint8), {"axes": (-1, -1)}, "axes"),
    ],
)
@pytest.mark.parametrize("function", [remove_artifacts, remove_artifacts_reference])
def test_what_is_refused(function, images, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(images, **options)


def test_refused_while_tracing() -> None:
    with pytest.raises(ValueError, match="got float32"):
        jax.jit(remove_artifacts)(np.zeros((4, 4), np.float32))
    with pytest.raises(ValueError, match="threshold"):
        jax.jit(remove_artifacts)(np.zeros((4, 4), np.uint8), 0.5)


# Beyond the report


def one_row(row: list[int], **options) -> list[int]:
    film = np.array([row], np.uint8)
    wanted = remove_artifacts_reference(film, 50, 6, **options)
    assert np.array_equal(remove_artifacts(film, 50, 6, **options), wanted)
    return wanted[0].tolist()


def test_a_ramped_edge_needs_a_span() -> None:
    row = [10, 10, 40, 70, 70, 40, 10, 10]
    assert one_row(row) == row
    assert one_row(row, edge_span=2) == [10] * 8
    assert one_row([10, 30, 50, 70, 50, 30, 10, 10], edge_span=2) == [10, 30, 50, 70, 50, 30, 10, 10]
    assert one_row([10, 30, 50, 70, 50, 30, 10, 10], edge_span=3) == [10] * 8


def test_a_span_reaches_from_foot_to_foot() -> None:
    """Steep steps are edges by themselves; with a span the lowest of them is the object's end."""
    row = [10, 70, 130, 70, 10, 10, 10, 10]
    assert one_row(row) == [10, 40, 40, 70, 10, 10, 10, 10]
    assert one_row(row, edge_span=2) == [10] * 8


def test_a_span_does_not_begin_on_the_plateau_before() -> None:
    row = [10, 10, 10, 90, 20, 20, 20, 20]
    assert one_row(row, edge_span=3) == one_row(row) == [10, 10, 10, 15, 20, 20, 20, 20]


def test_wide_objects_spared() -> None:
    row = [0, 60, 60, 60, 60, 60, 120, 120, 0, 90, 10]  # 7 wide, with a step near its right end
    assert one_row(row) == [0, 60, 60, 60, 60, 60, 30, 30, 0, 5, 10]
    assert one_row(row, spare_wide=True) == [0, 60, 60, 60, 60, 60, 120, 120, 0, 5, 10]


def test_columns_as_well_as_rows() -> None:
    film = noise(WIDTH, WIDTH)
    clean, reference = (functools.partial(f, max_width=3) for f in (remove_artifacts, remove_artifacts_reference))
    assert np.array_equal(clean(film, axes=(-2,)), reference(film.T).T)
    assert np.array_equal(reference(film, axes=(-2,)), reference(film.T).T)
    both = clean(film, axes=(-1, -2))
    assert np.array_equal(both, reference(reference(film).T).T)
    assert np.array_equal(both, reference(film, axes=(-1, -2)))
    assert not np.array_equal(both, reference(film, axes=(-2, -1)))
    wire = np.full((WIDTH, WIDTH), 80, np.uint8)
    wire[4, 2:20] = 200  # 18 pixels along the row, one across
    assert np.array_equal(clean(wire, axes=(-1,)), wire)
    assert (np.asarray(clean(wire, axes=(-1, -2))) == 80).all()


def test_the_mask_is_what_changed() -> None:
    film = noise(2, 16, WIDTH)
    for function in (remove_artifacts, remove_artifacts_reference):
        cleaned, mask = function(film, max_width=3, axes=(-1, -2), return_mask=True)
        assert np.array_equal(cleaned, remove_artifacts_reference(film, max_width=3, axes=(-1, -2)))
        assert mask.dtype == bool
        assert np.array_equal(mask, np.asarray(cleaned) != film)
        assert 0 < mask.mean() < 1


# The command line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven films in the NIH's layout: two sizes, one RGBA, one JPEG, two of the same name."""
    films = tmp_path / "nih"
    for number, name in enumerate(("images_001/images/a.png", "images_001/images/b.png", "images_002/images/a.png")):
        save(films / name, wire_film(number))
    save(films / "rgba.png", wire_film(3), mode="RGBA")
    save(films / "small.png", wire_film(4)[:20])
    save(films / "c.png", wire_film(5))
    save(films / "c.jpg", wire_film(6))
    return films


def wire_film(seed: int) -> np.ndarray:
    film = np.full((24, 32), 60 + seed, np.uint8)
    film[4:20, 10 + seed] = 220
    return film


def save(path: Path, film: np.ndarray, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(film).convert(mode).save(path)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The command's exit status."""
    monkeypatch.setattr(sys, "argv", ["scanline", *map(str, arguments)])
    try:
        command.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "changed.csv").open(newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def test_a_folder_is_mirrored(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    out = tmp_path / "out"
    assert run(monkeypatch, folder, f"--out={out}", "--compare") == 0
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
    names = {"images_001/images/a.png", "images_001/images/b.png", "images_002/images/a.png", "rgba.png", "small.png"}
    names |= {"c.png", "c.jpg.png"}
    written = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert written == names | {f"sheets/{name}" for name in names}
    rows = table(out)
    for name in names - {"c.jpg.png"}:
        film = read_grey(folder / name)
        cleaned = np.asarray(Image.open(out / name))
        assert cleaned.dtype == np.uint8
        assert np.array_equal(cleaned, remove_artifacts_reference(film))
        assert rows[name]["Image Index"] == Path(name).name
        assert int(rows[name]["changed_pixels"]) == 16
        assert float(rows[name]["changed_share"]) == pytest.approx(16 / film.size, abs=1e-6)
    assert list(rows) == sorted(rows)
    sheet = np.asarray(Image.open(out / "sheets/rgba.png"))
    assert sheet.shape[1:] == (3 * 32, 3)
    panels = sheet[-24:].reshape(24, 3, 32, 3)
    assert np.array_equal(panels[:, 0, :, 0], wire_film(3))
    assert np.array_equal(panels[:, 1, :, 0], remove_artifacts_reference(wire_film(3)))
    red = panels[:, 2, :, 0].astype(int) - panels[:, 2, :, 2] > 50
    assert np.array_equal(red, remove_artifacts_reference(wire_film(3)) != wire_film(3))


def test_a_folder_that_is_used_again_holds_what_its_table_names(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder / "=1.jpg", wire_film(1))  # its cell gets an apostrophe
    out = tmp_path / "out"
    assert run(monkeypatch, folder, f"--out={out}", "--compare") == 0
    save(out / "mine.png", wire_film(0))
    save(tmp_path / "in" / "c.png", wire_film(2))
    assert run(monkeypatch, tmp_path / "in", f"--out={out}") == 0
    assert list(table(out)) == ["c.png"]
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        *("c.png", "mine.png", "changed.csv")
    }
    inside = out / "rest" / "c.png"  # a film to be read is never removed
    save(inside, wire_film(2))
    before = inside.read_bytes()
    (out / "changed.csv").write_text("Image Index,changed_share,changed_pixels,path\nc.png,0,0,rest/c.png\n")
    assert run(monkeypatch, inside.parent, f"--out={out}") == 0
    assert inside.read_bytes() == before


def test_what_an_interrupted_run_wrote_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(cleaning.BATCH + 3):
        save(tmp_path / "many" / f"{number:02}.png", wire_film(number))
    save(tmp_path / "one" / "other.png", wire_film(0))
    out, whole_batches = tmp_path / "out", []

    def first_batch_alone(*films: np.ndarray, **options: object) -> object:
        if whole_batches:
            raise KeyboardInterrupt
        whole_batches.append(films)
        return remove_artifacts(*films, **options)

    with monkeypatch.context() as patched:
        patched.setattr(cleaning.scanline, "remove_artifacts", first_batch_alone)
        assert run(monkeypatch, tmp_path / "many", f"--out={out}") == 130
    assert len(list(out.glob("*.png"))) == cleaning.BATCH
    assert not (out / "changed.csv").exists()
    save(out / "mine.png", wire_film(0))
    (out / "18.png").write_bytes(b"half a film")  # of a process that was killed while it wrote
    assert run(monkeypatch, tmp_path / "one", f"--out={out}") == 0
    assert {path.name for path in out.iterdir()} == {"other.png", "mine.png", "changed.csv"}


def test_another_table_of_that_name_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "in" / "a.png", wire_film(0))
    save(tmp_path / "out" / "b.png", wire_film(1))
    for table in (b"path\nb.png\n", b"\xff\xfe,path\n", b""):
        (tmp_path / "out" / "changed.csv").write_bytes(table)
        assert run(monkeypatch, tmp_path / "in", f"--out={tmp_path / 'out'}") == 0
        assert (tmp_path / "out" / "b.png").exists()


def test_one_film_and_the_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = np.full((64, 64), 80, np.uint8)
    film[30:32, 5:60] = 110
    save(tmp_path / "in" / "a.png", film)
    options = ("--threshold=30", "--max_width=3", "--edge_span=2", "--axes=rows,columns", "--spare_wide")
    assert run(monkeypatch, tmp_path / "in" / "a.png", f"--out={tmp_path / 'out'}", *options) == 0
    assert (np.asarray(Image.open(tmp_path / "out" / "a.png")) == 80).all()
    assert not (tmp_path / "out" / "sheets").exists()


def test_more_films_than_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(cleaning.BATCH + 3):
        save(tmp_path / "in" / f"{number:02}.png", wire_film(number))
    assert run(monkeypatch, tmp_path / "in", f"--out={tmp_path / 'out'}") == 0
    for number in range(cleaning.BATCH + 3):
        assert (np.asarray(Image.open(tmp_path / "out" / f"{number:02}.png")) == 60 + number).all()


def test_broken_films_are_told_and_the_rest_is_cleaned(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (folder / "rgba.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    Image.fromarray(np.full((24, 32), 4000, np.uint16)).save(folder / "deep.png")
    assert run(monkeypatch, folder, f"--out={tmp_path / 'out'}") == 1
    complaint = capsys.readouterr().err
    for name in ("cut.png", "text.png", "empty.png", "deep.png"):
        assert name in complaint
        assert not (tmp_path / "out" / name).exists()
    assert "more than 8 bits" in complaint
    assert "error: not cleaned: 4" in complaint
    assert "Traceback" not in complaint
    assert len(table(tmp_path / "out")) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--out=out"], "nowhere: no such file or folder"),
        (["void", "--out=out"], "void: no film in it"),
        (["nih", "--out=nih"], "--out=nih lies in the input folder"),
        (["nih", "--out=nih/cleaned"], "--out=nih/cleaned lies in the input folder"),
        (["nih/c.png", "--out=nih"], "--out=nih lies in the input folder"),
        (["nih", "--out=nih/c.png"], "is a file; it takes a folder"),
        (["nih/broken.png", "--out=out"], "nih/broken.png: not an image"),
        (["nih"], "--out=DIR"),
        (["--out=out"], "FILE_OR_FOLDER"),
        (["nih", "void", "--out=out"], "FILE_OR_FOLDER"),
        (["nih", "--out=out", "--threshold=0"], "--threshold is 0; it must lie between 1 and 255"),
        (["nih", "--out=out", "--threshold=many"], "threshold.*many"),
        (["nih", "--out=out", "--max_width=0"], "--max_width is 0; it must lie"),
        (["nih", "--out=out", "--axes=diagonals"], "diagonals"),
        (["nih", "--out=out", "--treshold=5"], "treshold"),
    ],
)
def test_mistakes_are_told_in_a_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "void").mkdir()
    (folder / "broken.png").write_text("no picture")
    films = {path: path.read_bytes() for path in folder.rglob("*.*")}
    assert run(monkeypatch, *arguments) == 1
    complaint = [line for line in re.split(r"[\r\n]+", capsys.readouterr().err) if line and "cleaning" not in line]
    assert re.search(f"^error: .*{message}", complaint[-1])
    assert len(complaint) == 1
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == films


def test_films_that_would_become_one_are_refused(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    save(folder / "c.jpg.png", wire_film(0))
    assert run(monkeypatch, folder, f"--out={tmp_path / 'out'}") == 1
    assert "would both become" in capsys.readouterr().err


def test_as_a_module() -> None:
    ended = subprocess.run([sys.executable, "-m", "chexjax.scanline", "--help"], capture_output=True, text=True)
    assert ended.returncode == 0
    assert "--max_width" in ended.stdout
