"""The window's decisions as pure functions; and the window itself, by real keys and clicks on a screen of its own."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tkinter")

from chexjax.configs import baseline
from chexjax.data.sources.phantom import plan_films, render_film
from chexjax.data.verdict import Verdict
from chexjax.errors import CheckpointError
from chexjax.explain import overlay
from chexjax.explain.maps import MapBox
from chexjax.findings import FINDINGS
from chexjax.predict import Prediction
from chexjax.training.state import create_network, create_state
from chexjax.viewer import View, Viewer, list_rows, neighbour, render, status_line
from chexjax.workdir.checkpoints import Checkpoints
from chexjax.workdir.config import claim_workdir

FILM = np.random.default_rng(0).integers(0, 256, (120, 160), np.uint8)
SIZE = (160, 120)
CANVAS = (320, 300)


def test_a_fitted_film_fills_the_canvas_and_keeps_its_shape() -> None:
    assert View().to_canvas(0, 0, SIZE, CANVAS) == (0, 30)
    assert View().to_canvas(160, 120, SIZE, CANVAS) == (320, 270)
    picture = np.asarray(render(FILM, View(), CANVAS))
    expected = Image.fromarray(FILM).resize((320, 240), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(picture[30:270, :, 0], expected)
    assert len(np.unique(picture[:30].reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("at", [(160, 150), (40, 60), (300, 200)])
def test_zooming_keeps_the_place_under_the_pointer(at: tuple[float, float]) -> None:
    view = View().zoomed(2, (160, 150), SIZE, CANVAS)
    scale = view.scale(SIZE, CANVAS)
    point = [(at[k] - CANVAS[k] / 2) / scale + (view.x, view.y)[k] * SIZE[k] for k in (0, 1)]
    closer = view.zoomed(1.5, at, SIZE, CANVAS)
    assert closer.zoom == 3
    assert closer.to_canvas(*point, SIZE, CANVAS) == pytest.approx(at)
    assert closer.zoomed(0.01, at, SIZE, CANVAS) == View()
    assert View().zoomed(1e9, at, SIZE, CANVAS).zoom == 32


def test_panning_moves_the_film_with_the_pointer() -> None:
    view = View(zoom=4)
    x, y = view.to_canvas(70, 50, SIZE, CANVAS)
    assert view.panned(13, -7, SIZE, CANVAS).to_canvas(70, 50, SIZE, CANVAS) == pytest.approx((x + 13, y - 7))
    far = view.panned(1e6, -1e6, SIZE, CANVAS)
    assert (far.x, far.y) == (0.0, 1.0)


def test_windowing_stays_in_range() -> None:
    view = View().windowed(-55, 20)
    assert (view.width, view.center) == (200, 147.5)
    assert View().windowed(-1e4, -1e4).width == 1
    assert View().windowed(1e4, 1e4).center == 255
    picture = np.asarray(render(FILM, View(center=100, width=50), SIZE))
    np.testing.assert_array_equal(picture[..., 0], overlay.window(FILM, 100, 50))


def test_a_zoomed_view_is_a_part_of_the_whole() -> None:
    values = np.random.default_rng(1).random((4, 5)).astype(np.float32)
    big = (640, 480)
    whole = np.asarray(render(FILM, View(), big, values)).astype(int)[:, : 640 - 64]
    part = np.asarray(render(FILM, View(zoom=2, x=0.25, y=0.25), (320, 240), values)).astype(int)
    shown = whole[:240, :256]
    assert np.abs(part[:, :256] - shown).max() <= 2


def test_boxes_and_bar_are_drawn_where_they_belong() -> None:
    values = np.zeros((3, 4), np.float32)
    values[1, 1] = 1
    picture = np.asarray(
        render(np.full((120, 160), 50, np.uint8), View(), CANVAS, values, (MapBox(40, 40, 40, 40, 1.0),), 0.5)
    )
    assert (picture[30 + 80, 80:161] == 255).all()
    assert (picture[30 + 80 : 30 + 161, 80] == 255).all()
    bar = picture[:, CANVAS[0] - 64 + 16]
    assert np.abs(bar[20].astype(int) - overlay.PALETTE[255]).max() < 12
    assert np.abs(picture[35, 5].astype(int) - 50).max() <= 2


def test_a_view_without_film_left_in_sight_is_empty() -> None:
    assert np.asarray(render(FILM, View(), (1, 1))).shape == (1, 1, 3)


def test_rows_are_ranked_with_marks_where_thresholds_are_known() -> None:
    probabilities = np.linspace(0.05, 0.7, 14)
    thresholds = np.full(14, 0.5)
    thresholds[3] = np.nan
    maps = np.zeros((2, 2, 14), np.float32)
    rows = list_rows(
        Prediction(
            name="a", film=FILM, cleaned=None, probabilities=probabilities, uncalibrated=probabilities,
            thresholds=thresholds, maps=maps, findings=FINDINGS,
        )
    )  # fmt: skip
    assert [row.finding for row in rows] == list(FINDINGS[::-1])
    assert [row.above for row in rows] == [p >= 0.5 for p in probabilities[::-1]]
    assert rows[10].mark is None
    assert "/" not in rows[10].figure
    assert rows[0].figure == "0.700 / 0.500"
    assert "_" not in "".join(row.text for row in rows)


def test_the_status_says_why() -> None:
    assert status_line(Verdict()) == "Status: ok"
    verdict = Verdict("doubtful", ("seems mirrored", "nearly black"))
    assert status_line(verdict) == "Status: doubtful (seems mirrored; nearly black)"


def test_neighbours_go_round(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "c.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert neighbour(tmp_path / "a.png", 1).name == "b.png"
    assert neighbour(tmp_path / "a.png", -1).name == "c.jpg"
    assert neighbour(tmp_path / "notes.txt", 1).name == "a.png"  # what is shown counts, whatever it is called


# The window itself


@contextmanager
def screen(size: str, dpi: int) -> Iterator[dict[str, str]]:
    """The environment of a virtual screen."""
    missing = [tool for tool in ("Xvfb", "xdotool", "import") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (packages xvfb, xdotool, imagemagick)")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", f"{size}x24", "-dpi", str(dpi), "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as pipe:
        number = pipe.readline().strip()
    assert number, "Xvfb did not start"
    yield os.environ | {"DISPLAY": f":{number}"}
    server.terminate()
    server.wait()


@pytest.fixture(scope="module")
def display() -> Iterator[dict[str, str]]:
    with screen("1280x720", 96) as environment:
        yield environment


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow ResNet-18 that has learned nothing."""
    folder = tmp_path_factory.mktemp("run")
    config = baseline.get_config()
    config.networks.net1.width, config.data.size = 0.0625, 32
    claim_workdir(folder, config)
    state = create_state(config, "net1", create_network(config, "net1", None), (32, 32, 1), 1)
    checkpoints = Checkpoints(folder, writing=True)
    checkpoints.save(1, {"net1": state}, 0.5, {"groups": None, "history": []})
    return folder


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    for name, film in zip(("a", "b"), plan_films(2, seed=3), strict=True):
        Image.fromarray(render_film(film, 256)[0]).save(folder / f"{name}.png")
    (folder / "z.png").write_text("broken")
    return folder


class Window:
    """A viewer in a process of its own, seen through its title, its pictures and its exit status."""

    def __init__(self, environment: dict[str, str], *arguments: object):
        self.environment = environment
        command = [sys.executable, "-m", "chexjax.viewer", *map(str, arguments)]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        self.number = self.wait(lambda: self.tool("search", "--onlyvisible", "--name", "^chexjax").split()[:1])[0]
        self.focus(self.number)

    def tool(self, *arguments: object) -> str:
        command = ["xdotool", *map(str, arguments)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout.strip()

    def wait(self, condition: Callable[[], object], seconds: float = 180) -> object:
        """Until the condition holds; the machine may be slow, so the limit is far."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"waited in vain; the title is {self.title!r}"
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.1)
        return found

    def focus(self, number: object) -> None:
        self.tool("windowfocus", "--sync", number)

    @property
    def title(self) -> str:
        return self.tool("getwindowname", self.number)

    def until(self, *parts: str) -> str:
        self.wait(lambda: all(part in self.title for part in parts))
        return self.title

    def key(self, *names: str) -> None:
        self.tool("key", *names)

    def picture(self) -> np.ndarray:
        command = ["import", "-window", "root", "png:-"]
        png = subprocess.run(command, env=self.environment, capture_output=True, check=True).stdout
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)

    def until_changed(self, before: np.ndarray) -> np.ndarray:
        found: list[np.ndarray] = []

        def changed() -> bool:
            found[:] = [self.picture()]
            return np.abs(found[0] - before)[50:640, 100:720].mean() > 0.5

        self.wait(changed)
        return found[0]


def coloured(picture: np.ndarray) -> float:
    """The share of the film's pixels that are not grey."""
    return float((np.ptp(picture[60:620, 150:700], axis=-1) > 3).mean())


def test_the_window_by_keys_and_clicks(display: dict[str, str], workdir: Path, films: Path, tmp_path: Path) -> None:
    window = Window(display, f"--checkpoint={workdir}", films / "a.png")
    try:
        first = window.until("a.png, ")
        window.key("Down")
        window.wait(lambda: window.title != first)
        second = window.title
        assert "a.png, " in second
        window.key("Up")
        window.wait(lambda: window.title == first)
        window.tool("mousemove", 1000, 70 + 43 * 5, "click", 1)  # the sixth of the list
        window.wait(lambda: window.title not in (first, second))

        window.key("m")
        window.wait(lambda: coloured(window.picture()) < 0.01)  # a film without its map is grey
        plain = window.picture()
        window.tool("mousemove", 400, 300, "click", 4, "click", 4)
        closer = window.until_changed(plain)
        window.tool("mousemove", 400, 300, "mousedown", 1, "mousemove", 460, 360, "mousemove", 500, 380, "mouseup", 1)
        moved = window.until_changed(closer)
        window.tool("mousemove", 400, 300, "mousedown", 3, "mousemove", 300, 240, "mousemove", 250, 200, "mouseup", 3)
        window.until_changed(moved)
        window.key("0")
        window.key("c")  # cleaning, of a film with few artefacts: it must not break

        window.key("Right")
        window.until("b.png, ")
        window.key("Right")
        window.until("z.png cannot be read")
        window.key("Right")
        window.until("a.png, ")

        window.key("ctrl+s")
        dialog = window.wait(lambda: window.tool("search", "--onlyvisible", "--name", "^Save the view").split()[:1])
        window.focus(dialog[0])  # type: ignore[index]
        window.key("ctrl+slash")  # Tk's "select all"
        window.tool("type", str(tmp_path / "view.png"))
        window.key("Return")
        window.wait((tmp_path / "view.png").exists)
        assert Image.open(tmp_path / "view.png").size[0] > 300

        window.focus(window.number)
        window.key("Right", "ctrl+q")  # closed while the network runs
        _, heard = window.process.communicate(timeout=120)
        assert window.process.returncode == 0
        assert "Traceback" not in heard
    finally:
        window.process.kill()


def test_a_film_is_opened_by_keys_and_its_map_faded(display: dict[str, str], workdir: Path, films: Path) -> None:
    """From the first picture on: the spinner while the networks load, Ctrl+O and its dialog, the slider by Tab."""
    window = Window(display, f"--checkpoint={workdir}", "--maps=fine")
    try:
        spinning = []
        while "ready" not in window.title:
            spinning.append(spinner(window.picture()))
        window.wait(lambda: not spinner(window.picture()))
        assert any(spinning)

        window.key("ctrl+o")
        dialog = window.wait(lambda: window.tool("search", "--onlyvisible", "--name", "^Open a film").split()[:1])
        window.focus(dialog[0])  # type: ignore[index]
        window.tool("type", str(films / "b.png"))
        window.key("Return")
        window.until("b.png, ")

        window.focus(window.number)
        window.wait(lambda: coloured(window.picture()) > 0.3)
        before = window.title
        window.key(*["Tab"] * 9)  # five buttons, three switches, and then the slider
        window.key(*["Left"] * 10)
        window.wait(lambda: coloured(window.picture()) < 0.05)  # boxes and the bar are all that is left of the map
        window.key(*["Right"] * 10)
        window.wait(lambda: coloured(window.picture()) > 0.3)
        assert window.title == before  # the arrows were the slider's: no other film, no other finding
        window.process.send_signal(signal.SIGTERM)
        window.process.wait(timeout=120)
    finally:
        window.process.kill()


def test_keys_alone_do_what_the_mouse_does(display: dict[str, str], workdir: Path, films: Path) -> None:
    """Zoom, pan, window and level, boxes, and back to the whole film: each key changes the picture."""
    window = Window(display, f"--checkpoint={workdir}", "--maps=fine", films / "a.png")
    try:
        window.until("a.png, ")
        window.wait(lambda: coloured(window.picture()) > 0.3)
        with_boxes = window.picture()
        window.key("b")
        window.wait(lambda: (window.picture() != with_boxes)[60:640, 150:700].any())
        window.key("m")
        window.wait(lambda: coloured(window.picture()) < 0.01)
        whole = picture = window.picture()
        zoomed = ["plus", "equal", "ctrl+Left", "ctrl+Up", "minus", "ctrl+Right", "ctrl+Down"]
        shaded = ["shift+Right", "shift+Up", "shift+Down", "shift+Left"]
        for name in zoomed + shaded:
            window.key(name)
            picture = window.until_changed(picture)
        window.key("0")
        window.wait(lambda: (window.picture() == whole)[60:640, 150:700].all())
        window.key("ctrl+q")
        assert window.process.wait(timeout=120) == 0
    finally:
        window.process.kill()


def spinner(picture: np.ndarray) -> bool:
    """Whether something is drawn at the right end of the tool bar."""
    corner = picture[8:30, 1100:1180]
    return bool(np.abs(corner - corner[0, 0]).max() > 20)


@pytest.mark.parametrize(("size", "dpi"), [("1280x720", 96), ("2560x1440", 192)])
def test_it_fits_the_screen_and_grows_with_its_resolution(size: str, dpi: int, workdir: Path, films: Path) -> None:
    """On a screen of twice the resolution everything is twice as large, and lies at twice the place."""
    times = dpi // 96
    with screen(size, dpi) as environment:
        window = Window(environment, f"--checkpoint={workdir}", films / "a.png")
        try:
            first = window.until("a.png, ")
            message = window.tool("getwindowgeometry", "--shell", window.number)
            x, y, width, height = (
                int(re.search(f"{key}=(-?\\d+)", message)[1]) for key in ("X", "Y", "WIDTH", "HEIGHT")
            )
            columns, rows = map(int, size.split("x"))
            assert 0.8 * columns < width <= columns - x
            assert 0.8 * rows < height <= rows - y
            window.tool("mousemove", 1000 * times, (70 + 43 * 13) * times, "click", 1)  # the last of the list
            window.wait(lambda: window.title != first)
            last = window.title
            window.key("Down")  # round to the first
            window.wait(lambda: window.title == first)
            window.key("Up")
            window.wait(lambda: window.title == last)
            window.key("ctrl+q")
            assert window.process.wait(timeout=120) == 0
        finally:
            window.process.kill()


def test_without_a_checkpoint_it_says_how_to_make_one(display: dict[str, str], films: Path) -> None:
    window = Window(display, films / "a.png")
    try:
        window.until("a.png shown")
        window.key("ctrl+q")
        assert window.process.wait(timeout=120) == 0
    finally:
        window.process.kill()


def test_without_a_display_it_says_so() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
    command = [sys.executable, "-m", "chexjax.viewer"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: there is no display" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_tkinter_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['tkinter'] = None; sys.argv = ['view']; from chexjax.commands.view import main"
    done = subprocess.run([sys.executable, "-c", f"{program}; main()"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: a window needs tkinter")
    assert "Traceback" not in done.stderr


def test_why_the_networks_could_not_be_loaded_stays_in_sight() -> None:
    """The film that comes after them must not be shown with the words for no checkpoint at all."""
    said: list[str] = []
    window = MagicMock(_request=1, _waiting=0, classifier=None, say=said.append)
    Viewer._take(window, "load", CheckpointError("runs/frist holds no checkpoint"))
    Viewer._take(window, ("film", 1), MagicMock())
    assert len(said) == 2
    assert all("runs/frist holds no checkpoint" in text for text in said)
