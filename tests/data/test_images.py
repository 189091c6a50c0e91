"""Image files of every kind: the right grey levels out, or one line that says why not."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexjax.data import images
from chexjax.data.images import read_grey, read_judged_picture
from chexjax.data.verdict import Verdict
from chexjax.errors import ConfigError, DataError

GREY = np.random.default_rng(0).integers(0, 256, (21, 34), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (21, 34, 3), np.uint8)


def luminance(colour: np.ndarray) -> np.ndarray:
    """ITU-R 601-2, in whole numbers."""
    return ((colour.astype(np.int64) @ [19595, 38470, 7471] + 2**15) >> 16).astype(np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, kind: int, rows: bytes, interlaced: int = 0, *more: bytes) -> bytes:
    """A PNG by the standard's text; `rows` with their filter bytes."""
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced)
    body = chunk(b"IHDR", head) + b"".join(more) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def unfiltered(pixels: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def adam7(pixels: np.ndarray) -> bytes:
    """The seven passes of an interlaced PNG."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    return b"".join(unfiltered(pixels[top::down, left::right]) for top, left, down, right in passes)


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_interlaced(tmp_path: Path) -> None:
    path = put(tmp_path / "a.png", png(34, 21, 8, 0, adam7(GREY), 1))
    np.testing.assert_array_equal(read_grey(path), GREY)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_go_from_black_to_white(tmp_path: Path, bits: int) -> None:
    levels = np.random.default_rng(bits).integers(0, 2**bits, (9, 16), np.uint8)
    each = ((levels[..., None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8)
    path = put(tmp_path / "a.png", png(16, 9, bits, 0, unfiltered(np.packbits(each.reshape(9, -1), axis=1))))
    np.testing.assert_array_equal(read_grey(path), levels * (255 // (2**bits - 1)))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    path = put(tmp_path / "a.png", png(256, 256, 16, 0, unfiltered(values.astype(">u2"))))
    np.testing.assert_array_equal(read_grey(path), np.rint(values * 255.0 / 65535))


def test_twelve_bits_in_sixteen_are_refused_with_what_was_seen(tmp_path: Path) -> None:
    values = 16 * GREY.astype(int)
    path = put(tmp_path / "a.png", png(34, 21, 16, 0, unfiltered(values.astype(">u2"))))
    with pytest.raises(DataError, match=rf"more than 8 bits .* from {values.min()} to {values.max()}, .* 65535"):
        read_grey(path)


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_of_colour_are_refused(tmp_path: Path, kind: int, channels: int) -> None:
    rows = unfiltered(np.random.default_rng(0).integers(0, 2**16, (9, 7 * channels), np.uint16))
    with pytest.raises(DataError, match="more than 8 bits a pixel, in colour"):
        read_grey(put(tmp_path / "a.png", png(7, 9, 16, kind, rows)))


def test_colour_and_palette(tmp_path: Path) -> None:
    path = put(tmp_path / "a.png", png(34, 21, 8, 2, unfiltered(COLOUR.reshape(21, -1))))
    np.testing.assert_array_equal(read_grey(path), luminance(COLOUR))
    palette = np.random.default_rng(2).integers(0, 256, (256, 3), np.uint8)
    plte, trns = chunk(b"PLTE", palette.tobytes()), chunk(b"tRNS", bytes(range(256)))
    for more in ([plte], [plte, trns]):
        path = put(tmp_path / "b.png", png(34, 21, 8, 3, unfiltered(GREY), 0, *more))
        np.testing.assert_array_equal(read_grey(path), luminance(palette[GREY]))


def test_transparency_is_left_out(tmp_path: Path) -> None:
    alpha = np.random.default_rng(3).integers(0, 256, (21, 34, 1), np.uint8)
    rows = unfiltered(np.concatenate([COLOUR, alpha], axis=2).reshape(21, -1))
    np.testing.assert_array_equal(read_grey(put(tmp_path / "a.png", png(34, 21, 8, 6, rows))), luminance(COLOUR))
    rows = unfiltered(np.concatenate([GREY[..., None], alpha], axis=2).reshape(21, -1))
    np.testing.assert_array_equal(read_grey(put(tmp_path / "b.png", png(34, 21, 8, 4, rows))), GREY)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    inks = np.zeros((16, 16, 4), np.uint8)  # flat blocks, which JPEG keeps
    for column, ink in enumerate([(0, 0, 0, 0), (200, 30, 60, 10), (0, 120, 0, 90), (10, 20, 30, 255)]):
        inks[column // 2 * 8 : column // 2 * 8 + 8, column % 2 * 8 : column % 2 * 8 + 8] = ink
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.jpg", quality=100)
    part = 255.0 - inks
    expected = (part[..., :3] * part[..., 3:] / 255) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(read_grey(tmp_path / "a.jpg"), expected, atol=2.5)


def animated(kind: str) -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(np.roll(GREY, k)) for k in range(3)]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


def test_an_animated_png_is_no_film(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png: 3 frames; a film is one picture"):
        read_grey(put(tmp_path / "a.png", animated("PNG")))


def other(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(GREY).convert("RGB").save(file, kind)
    return file.getvalue()


WHOLE = png(34, 21, 8, 0, unfiltered(GREY))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read|not an image"),
        (WHOLE[:-40], "cannot be read"),
        (WHOLE[:200] + bytes([WHOLE[200] ^ 1]) + WHOLE[201:], "cannot be read"),  # one bit of the pixels
        (animated("GIF"), "not an image"),
        (other("WEBP"), "not an image"),
        (other("TIFF"), "not an image"),
        (other("EPS"), "not an image"),  # Pillow would start Ghostscript
        (other("JPEG")[:-100], "cannot be read"),
    ],
    ids=["zero bytes", "magic", "cut", "flipped", "gif", "webp", "tiff", "eps", "cut jpeg"],
)
def test_broken_and_other_files(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"a\.png: ({message})"):
        read_grey(put(tmp_path / "a.png", data))


def test_every_single_flipped_bit_of_a_png_is_found_or_harmless(tmp_path: Path) -> None:
    small = png(5, 4, 8, 0, unfiltered(GREY[:4, :5]))
    for bit in range(8 * len(small)):
        data = bytearray(small)
        data[bit // 8] ^= 1 << bit % 8
        try:
            found = read_grey(put(tmp_path / "a.png", bytes(data)))
        except DataError:
            continue
        np.testing.assert_array_equal(found, GREY[:4, :5])


def bomb(side: int) -> bytes:
    """A PNG that claims `side` x `side` pixels, and holds them all: zeros compress a thousand times."""
    return png(side, side, 1, 0, bytes((side // 8 + 1) * side))


@pytest.mark.parametrize("side", [6000, 13000, 60000])  # Pillow warns from 9459 on, and refuses from 13378 on
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path, side: int) -> None:
    data = bomb(side) if side < 10000 else png(side, side, 8, 0, b"\0" * 1000)
    with pytest.raises(DataError, match=rf"{side} x {side} pixels|more pixels than Pillow opens") as caught:
        read_grey(put(tmp_path / "a.png", data))
    assert len(data) < 10_000
    assert len(str(caught.value)) < 400


def test_the_limit_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a.png", WHOLE)
    monkeypatch.setenv(images.LIMIT, str(GREY.size))
    np.testing.assert_array_equal(read_grey(path), GREY)
    monkeypatch.setenv(images.LIMIT, str(GREY.size - 1))
    with pytest.raises(DataError, match=rf"34 x 21 pixels; .* at most {GREY.size - 1}, .*\nset CHEXJAX_MAX_PIXELS"):
        read_grey(path)
    for text in ("many", "-5", "0", "1e9", "9" * 50):
        monkeypatch.setenv(images.LIMIT, text)
        with pytest.raises(ConfigError, match="CHEXJAX_MAX_PIXELS is"):
            read_grey(path)


def test_long_and_narrow_films_are_refused() -> None:
    with pytest.raises(DataError, match="1 x 70000 pixels"):
        images.check_size("a.png", 1, 70000)
    images.check_size("a.png", 4248, 3480)  # a large detector's


def test_text_chunks_do_not_inflate(tmp_path: Path) -> None:
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**26), 9))
    code = (
        "import resource, sys; from pathlib import Path; from chexjax.data.images import read_grey\n"
        "from chexjax.errors import DataError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_grey(Path(sys.argv[1]))\n"
        "except DataError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    path = put(tmp_path / "a.png", png(34, 21, 8, 0, unfiltered(GREY), 0, text))
    ended = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert int(ended.stdout) < 32 * 1024  # KiB; the text is 64 MiB


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "round.png").symlink_to("round.png")
    (tmp_path / "gone.png").symlink_to("nowhere")
    for name, message in (
        ("folder", "a folder"), ("pipe", "a device"), ("round", "levels of symbolic links"), ("gone", "No such file"),
        ("n" * 300, "name too long"), ("nul\0", "no such file"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            read_grey(tmp_path / f"{name}.png")
    with pytest.raises(DataError, match="a device"):
        read_grey(Path("/dev/zero"))


def test_a_sparse_file_of_a_terabyte_is_not_read(tmp_path: Path) -> None:
    path = put(tmp_path / "a.png", WHOLE)
    os.truncate(path, 2**40)
    with pytest.raises(DataError, match=f"{2**40} bytes"):
        read_grey(path)


def test_messages_cannot_act_on_a_terminal(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_grey(put(tmp_path / "a\x1b[2J\nb\u202e.png", b"none"))
    assert "a\\x1b[2J\\nb\\u202e.png" in str(caught.value)
    assert all(character.isprintable() for character in str(caught.value))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_set_upright_as_its_camera_says(tmp_path: Path, orientation: int) -> None:
    """Source: EXIF 2.3, table 6: where the first row and the first column of what is stored belong."""
    grey = np.zeros((64, 96), np.uint8)
    grey[:32, :48], grey[:32, 48:], grey[32:, :48] = 250, 170, 90  # what is seen
    lying = {
        1: grey,
        2: grey[:, ::-1],
        3: grey[::-1, ::-1],
        4: grey[::-1],
        5: grey.T,
        6: np.rot90(grey),
        7: grey[::-1, ::-1].T,
        8: np.rot90(grey, -1),
    }[orientation]
    note = Image.Exif()
    note[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(lying)).save(tmp_path / "a.jpg", quality=95, exif=note)
    assert np.abs(read_grey(tmp_path / "a.jpg").astype(int) - grey).max() <= 12


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_verdict_on_size_and_colour(tmp_path: Path, suffix: str) -> None:
    x, y = np.meshgrid(np.arange(96), np.arange(80))
    grey = (x + y + 20).astype(np.uint8)
    rgb = np.repeat(grey[..., None], 3, axis=-1)

    def judge(pixels: np.ndarray) -> Verdict:
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(pixels).save(path)
        return read_judged_picture(path).verdict

    assert judge(grey) == judge(rgb) == Verdict()
    assert judge(grey[:40]) == Verdict("doubtful", ("only 96 x 40 pixels",))
    assert judge(grey[:16, :16]) == Verdict("refused", ("only 16 x 16 pixels",))
    rgb[:8, :16] = (255, 0, 0)
    assert judge(rgb) == Verdict("doubtful", ("marks in colour",))
    rgb[:, :40, 0] = 255
    assert judge(rgb) == Verdict("refused", ("a picture in colour",))
