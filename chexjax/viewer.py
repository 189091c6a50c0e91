"""The window: a film, its findings, and where they are; `chexjax.commands.view` lists its keys."""

if __name__ == "__main__":
    from chexjax.commands.view import main  # without the libraries below: --help needs none
    from chexjax.runtime import run

    run(main)

import math
import queue
import threading
import tkinter as tk
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tkinter import filedialog, ttk
from tkinter import font as tkfont
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageTk

from chexjax.data.images import JudgedFilm
from chexjax.data.recipe import Recipe
from chexjax.data.verdict import Verdict
from chexjax.errors import ChexjaxError, printable, printable_lines
from chexjax.explain import overlay
from chexjax.explain.evidence import BEST
from chexjax.explain.maps import MapBox, heat
from chexjax.files import whole
from chexjax.findings import RADIOLOGY
from chexjax.formats import format_figure, format_name, format_threshold
from chexjax.predict import (
    NO_THRESHOLDS,
    TRAIN_FIRST,
    Classifier,
    Prediction,
    clean_film,
    looks_like_film,
)
from chexjax.predict.films import as_judged

BACKGROUND, TEXT, FAINT, BAR, ABOVE, CHOSEN = "#16181b", "#e6e6e6", "#a9adb3", "#5b8def", "#ffb454", "#2c3a52"
NO_CHECKPOINT: Final = f"No checkpoint is given, so films are only shown. One command makes one:\n{TRAIN_FIRST}\nThen: \
python -m chexjax.viewer --checkpoint=runs/first"
_ROWS: Final = 14  # of the list, before it scrolls or leaves room
ZOOM_STEP, ZOOM_MOST = 1.25, 32.0
BAR_WIDTH: Final = 64  # of the colour bar
POLL_MS: Final = 30
LONGEST: Final = 1000  # characters of a message


# Decisions, as pure functions


@dataclass(frozen=True)
class View:
    """The visible part of a film and its grey levels: `zoom` 1 fits; `x`, `y` are the centre, as fractions."""

    zoom: float = 1.0
    x: float = 0.5
    y: float = 0.5
    center: float = 127.5
    width: float = 255.0

    def scale(self, film: tuple[int, int], canvas: tuple[int, int]) -> float:
        """Canvas pixels per film pixel; both sizes are (width, height)."""
        return self.zoom * min(canvas[0] / film[0], canvas[1] / film[1])

    def to_canvas(self, x: float, y: float, film: tuple[int, int], canvas: tuple[int, int]) -> tuple[float, float]:
        """A point of the film, in its pixels, in canvas coordinates."""
        scale = self.scale(film, canvas)
        return (x - self.x * film[0]) * scale + canvas[0] / 2, (y - self.y * film[1]) * scale + canvas[1] / 2

    def panned(self, dx: float, dy: float, film: tuple[int, int], canvas: tuple[int, int]) -> "View":
        """Moved by canvas pixels; the canvas centre stays on the film."""
        scale = self.scale(film, canvas)
        x, y = self.x - dx / scale / film[0], self.y - dy / scale / film[1]
        return replace(self, x=min(max(x, 0.0), 1.0), y=min(max(y, 0.0), 1.0))

    def zoomed(self, factor: float, at: tuple[float, float], film: tuple[int, int], canvas: tuple[int, int]) -> "View":
        """Zoomed around a point of the canvas, which stays fixed; 1 fits and is the minimum."""
        zoom = min(max(self.zoom * factor, 1.0), ZOOM_MOST)
        if zoom == 1.0:
            return replace(self, zoom=1.0, x=0.5, y=0.5)
        before, after = self.scale(film, canvas), self.scale(film, canvas) * zoom / self.zoom
        dx, dy = at[0] - canvas[0] / 2, at[1] - canvas[1] / 2
        x = self.x + dx * (1 / before - 1 / after) / film[0]
        y = self.y + dy * (1 / before - 1 / after) / film[1]
        return replace(self, zoom=zoom, x=min(max(x, 0.0), 1.0), y=min(max(y, 0.0), 1.0))

    def windowed(self, dx: float, dy: float) -> "View":
        """Window width changed by `dx`, centre by `dy`; one pixel of dragging is one grey level."""
        return replace(self, width=min(max(self.width + dx, 1.0), 510.0), center=min(max(self.center + dy, 0.0), 255.0))


def render(
    film: np.ndarray, view: View, canvas: tuple[int, int], map2d: np.ndarray | None = None,
    boxes: tuple[MapBox, ...] = (), opacity: float = overlay.OPACITY,
) -> Image.Image:  # fmt: skip
    """The canvas as an RGB picture (width, height): the film under `view`, with map, boxes and colour bar."""
    rows, columns = film.shape
    size = (columns, rows)
    picture = Image.new("RGB", canvas, BACKGROUND)
    left, top = view.to_canvas(0, 0, size, canvas)
    right, bottom = view.to_canvas(columns, rows, size, canvas)
    seen = [max(round(left), 0), max(round(top), 0), min(round(right), canvas[0]), min(round(bottom), canvas[1])]
    width, height = seen[2] - seen[0], seen[3] - seen[1]
    if width > 0 and height > 0:
        shares = (
            (seen[0] - left) / (right - left), (seen[1] - top) / (bottom - top),
            (seen[2] - left) / (right - left), (seen[3] - top) / (bottom - top),
        )  # fmt: skip
        shares = tuple(min(max(share, 0.0), 1.0) for share in shares)  # type: ignore[assignment]
        region = tuple(share * extent for share, extent in zip(shares, size * 2, strict=True))
        shown = Image.fromarray(film).resize((width, height), Image.Resampling.BILINEAR, box=region)
        grey = overlay.window(np.asarray(shown), view.center, view.width)
        if map2d is None:
            picture.paste(Image.fromarray(grey), (seen[0], seen[1]))
        else:
            blended = overlay.blend(grey, heat(map2d, width, height, shares), opacity)
            picture.paste(Image.fromarray(blended), (seen[0], seen[1]))
    corners = [
        (
            *view.to_canvas(box.left, box.top, size, canvas),
            *view.to_canvas(box.left + box.width, box.top + box.height, size, canvas),
        )
        for box in boxes
    ]
    overlay.draw_boxes(picture, corners)
    if map2d is not None and canvas[0] > 3 * BAR_WIDTH and canvas[1] > 100:
        ends = [f"{value:.3g}" for value in (float(map2d.min()), float(map2d.max()))]
        picture.paste(overlay.colour_bar(BAR_WIDTH, canvas[1], *ends), (canvas[0] - BAR_WIDTH, 0))
    return picture


class Row(NamedTuple):
    """A finding in the list; `bar` and `mark` are fractions of the bar's length, `mark` is None without a threshold."""

    finding: str
    text: str
    figure: str
    bar: float
    mark: float | None
    above: bool


def list_rows(prediction: Prediction) -> list[Row]:
    """The findings by rank, as the list shows them."""
    rows = []
    for finding in prediction.ranked:
        probability, threshold = prediction.probability(finding), prediction.threshold(finding)
        known = not math.isnan(threshold)
        figure = format_figure(probability, 3) + (f" / {format_threshold(threshold)}" if known else "")
        mark = threshold if known else None
        above = known and probability >= threshold
        rows.append(Row(finding, format_name(finding), figure, probability, mark, above))
    return rows


def status_line(verdict: Verdict) -> str:
    """The line below the film: `Status: doubtful (seems mirrored)`."""
    reasons = f" ({'; '.join(verdict.reasons)})" if verdict.reasons else ""
    return f"Status: {verdict.status}{reasons}"


def neighbour(path: Path, step: int) -> Path:
    """The film `step` positions further in its folder, by name, wrapping around."""
    films = sorted({other for other in path.parent.iterdir() if looks_like_film(other)} | {path})
    return films[(films.index(path) + step) % len(films)]


# The thread that the network runs on


class Worker(threading.Thread):
    """Runs jobs one by one outside the Tk thread; results wait in `done` as (tag, value or exception)."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: queue.Queue[tuple[Any, Callable[[], Any]] | None] = queue.Queue()
        self.done: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.closed = False

    def run(self) -> None:
        while (job := self.jobs.get()) is not None and not self.closed:
            tag, work = job
            try:
                self.done.put((tag, work()))
            except Exception as error:  # whatever it is, the window tells it and lives on
                self.done.put((tag, error))

    def close(self) -> None:
        """Starts no further job; a running one finishes."""
        self.closed = True
        self.jobs.put(None)


class Viewer(tk.Tk):
    """The window. If `workdir` is None, films are shown without findings."""

    def __init__(
        self, workdir: str | None, film: Path | None = None, maps: str = BEST, raw: bool = False,
        prevalence: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.film_path: Path | None = None
        self.judged: JudgedFilm | None = None
        self.cleaned: np.ndarray | None = None
        self.prediction: Prediction | None = None
        self.classifier: Classifier | None = None
        self.finding: str | None = None
        self.view = View()
        self._boxes: dict[str, tuple[MapBox, ...]] = {}
        self._request = 0  # of films asked for; what comes for an earlier one is dropped
        self._waiting = 0
        self._without = NO_CHECKPOINT  # why films are only shown
        self._dragged: tuple[int, int] | None = None
        self._drawing = False
        self.worker = Worker()
        self._build()
        self.worker.start()
        self.protocol("WM_DELETE_WINDOW", self.close)
        if workdir:
            networks = partial(Classifier.from_checkpoint, workdir, maps, 1, raw=raw, prevalence=prevalence)
            self._do("load", networks)
            self.say("Loading the networks …")
        else:
            self.say(NO_CHECKPOINT)
        self._retitle()
        if film:
            self.open(film)
        self.after(POLL_MS, self._poll)

    @property
    def film(self) -> np.ndarray | None:
        """uint8 (height, width), or None until the film is read."""
        return None if self.judged is None else self.judged.pixels

    # Widgets

    def _build(self) -> None:
        line = tkfont.nametofont("TkDefaultFont").metrics("linespace")
        self._line = line
        self.geometry(
            f"{min(70 * line, self.winfo_screenwidth())}x{min(42 * line, self.winfo_screenheight() - 2 * line)}"
        )
        self.minsize(36 * line, 24 * line)
        style = ttk.Style(self)
        style.theme_use("clam")
        style.configure(".", background=BACKGROUND, foreground=TEXT, fieldbackground=BACKGROUND)
        style.map(".", background=[("active", CHOSEN)], foreground=[("disabled", FAINT)])
        self.configure(background=BACKGROUND)
        self.columnconfigure(0, weight=1)
        self.rowconfigure(1, weight=1)

        bar = ttk.Frame(self, padding=line // 4)
        bar.grid(row=0, column=0, columnspan=2, sticky="ew")
        for text, action in (
            ("Open …", self.ask_open), ("◀ Previous", lambda: self.step(-1)), ("Next ▶", lambda: self.step(1)),
            ("Fit", self.fit), ("Save …", self.ask_save),
        ):  # fmt: skip
            ttk.Button(bar, text=text, command=action).pack(side="left", padx=line // 6)
        self.show_map, self.show_boxes, self.show_cleaned = (
            tk.BooleanVar(self, value) for value in (True, True, False)
        )
        for text, variable in (("Map", self.show_map), ("Boxes", self.show_boxes), ("Cleaned", self.show_cleaned)):
            button = ttk.Checkbutton(bar, text=text, variable=variable, command=self._redraw_cleaned)
            button.pack(side="left", padx=line // 4)
        ttk.Label(bar, text="Opacity").pack(side="left", padx=(line // 2, 2))
        self.opacity = tk.DoubleVar(self, overlay.OPACITY)
        scale = ttk.Scale(bar, from_=0, to=1, variable=self.opacity, length=7 * line, command=lambda _: self.redraw())
        scale.pack(side="left")
        for key, change in (("Left", -0.1), ("Down", -0.1), ("Right", 0.1), ("Up", 0.1)):
            scale.bind(f"<{key}>", partial(self._fade, change))
        self.spinner = ttk.Progressbar(bar, mode="indeterminate", length=5 * line)

        self.canvas = tk.Canvas(self, background=BACKGROUND, highlightthickness=0, cursor="crosshair")
        self.canvas.grid(row=1, column=0, sticky="nsew")
        side = ttk.Frame(self, padding=line // 4)
        side.grid(row=1, column=1, rowspan=2, sticky="ns")
        self.list = tk.Canvas(side, background=BACKGROUND, highlightthickness=1, width=21 * line, takefocus=True)
        self.list.configure(highlightbackground=BACKGROUND, highlightcolor=BAR, height=int(_ROWS * 2.1 * line))
        self.list.pack(fill="both", expand=True)
        self.status = ttk.Label(self, padding=(line // 3, line // 6, line // 3, 0), anchor="w", justify="left")
        self.status.grid(row=2, column=0, sticky="ew")
        self.message = ttk.Label(self, padding=line // 3, anchor="w", justify="left")
        self.message.grid(row=3, column=0, columnspan=2, sticky="ew")

        self.canvas.bind("<Configure>", lambda _: self.redraw())
        self.list.bind("<Configure>", lambda _: self._draw_list())
        self.list.bind("<Button-1>", self._click_list)
        self.list.bind("<Button-4>", lambda _: self._scroll_list(-1))
        self.list.bind("<Button-5>", lambda _: self._scroll_list(1))
        self.list.bind("<MouseWheel>", lambda event: self._scroll_list(-1 if event.delta > 0 else 1))
        for label in (self.status, self.message):
            label.bind("<Configure>", lambda event: event.widget.configure(wraplength=event.width - line))
        modes: dict[int, Callable[[float, float], None]] = {1: self._pan, 3: self._window}
        for number, mode in modes.items():
            self.canvas.bind(f"<ButtonPress-{number}>", self._press)
            self.canvas.bind(f"<B{number}-Motion>", partial(self._drag, mode))
        self.canvas.bind("<Button-4>", lambda event: self.zoom(ZOOM_STEP, (event.x, event.y)))
        self.canvas.bind("<Button-5>", lambda event: self.zoom(1 / ZOOM_STEP, (event.x, event.y)))
        self.canvas.bind(
            "<MouseWheel>",
            lambda event: self.zoom(ZOOM_STEP if event.delta > 0 else 1 / ZOOM_STEP, (event.x, event.y)),
        )
        keys: dict[str, Callable[[], Any]] = {
            "<Control-o>": self.ask_open, "<Control-s>": self.ask_save, "<Control-q>": self.close,
            "<Left>": lambda: self.step(-1), "<Right>": lambda: self.step(1),
            "<Up>": lambda: self.choose_next(-1), "<Down>": lambda: self.choose_next(1),
            "<plus>": lambda: self.zoom(ZOOM_STEP), "<equal>": lambda: self.zoom(ZOOM_STEP),
            "<minus>": lambda: self.zoom(1 / ZOOM_STEP), "<Key-0>": self.fit,
            "<Key-c>": lambda: self._toggle(self.show_cleaned), "<Key-b>": lambda: self._toggle(self.show_boxes),
            "<Key-m>": lambda: self._toggle(self.show_map),
            "<Shift-Left>": lambda: self._window(-8, 0), "<Shift-Right>": lambda: self._window(8, 0),
            "<Shift-Up>": lambda: self._window(0, -8), "<Shift-Down>": lambda: self._window(0, 8),
            "<Control-Left>": lambda: self._pan(40, 0), "<Control-Right>": lambda: self._pan(-40, 0),
            "<Control-Up>": lambda: self._pan(0, 40), "<Control-Down>": lambda: self._pan(0, -40),
        }  # fmt: skip
        for key, action in keys.items():
            self.bind(key, partial(self._key, action))

    def _key(self, action: Callable[[], Any], event: Any) -> None:
        """Ignores keys that were pressed in a dialog."""
        if event.widget.winfo_toplevel() is self:
            action()

    # Actions

    def open(self, path: Path) -> None:
        """Shows a film, and its findings as soon as they are computed."""
        self._request += 1
        self.film_path, self.judged, self.cleaned, self.prediction, self.finding = path, None, None, None, None
        self.status.configure(text="")
        self._boxes.clear()
        self.view = replace(self.view, zoom=1.0, x=0.5, y=0.5)
        request = self._request
        self.say(f"Reading {printable(path.name)} …")
        self._do(("film", request), lambda: as_judged(path) if request == self._request else None)
        self.redraw()
        self._draw_list()
        self._retitle()

    def step(self, offset: int) -> None:
        """Opens another film of the folder."""
        if self.film_path is not None:
            try:
                self.open(neighbour(self.film_path, offset))
            except OSError as error:
                self.say(f"The folder cannot be read: {error.strerror}")

    def choose(self, finding: str) -> None:
        """Shows the map of a finding."""
        if self.prediction is not None:
            self.finding = finding
            threshold = format_threshold(self.prediction.threshold(finding))
            hint = f": {RADIOLOGY[finding]}" if finding in RADIOLOGY else ""
            note = self.classifier.map_notes.get(finding, "") if self.classifier else ""
            self.say(f"{format_name(finding)} (threshold {threshold}){hint}{f'; {note}' if note else ''}")
            self.redraw()
            self._draw_list()
            self._retitle()

    def choose_next(self, offset: int) -> None:
        """Moves up or down the list."""
        if self.prediction is not None and self.finding is not None:
            ranked = self.prediction.ranked
            self.choose(ranked[(ranked.index(self.finding) + offset) % len(ranked)])

    def ask_open(self) -> None:
        folder = str(self.film_path.parent) if self.film_path else None
        chosen = filedialog.askopenfilename(parent=self, title="Open a film", initialdir=folder)
        if chosen:
            self.open(Path(chosen))

    def ask_save(self) -> None:
        if self.film is None or self.film_path is None:
            self.say("There is no film to save.")
            return
        name = printable(f"{self.film_path.stem}-{self.finding or 'film'}.png")
        chosen = filedialog.asksaveasfilename(
            parent=self, title="Save the view", initialfile=name, defaultextension=".png"
        )
        if chosen:
            self.save(Path(chosen))

    def save(self, path: Path) -> None:
        """Saves the visible picture as PNG, under a line that describes it."""
        picture = self._picture()
        if picture is None:
            return
        sheet = Image.new("RGB", (picture.width, picture.height + 24))
        sheet.paste(picture, (0, 24))
        font = ImageFont.load_default(14)
        ImageDraw.Draw(sheet).text((6, 3), overlay.fit_text(self.title(), sheet.width - 12, font), "white", font)
        try:
            with whole(path) as partial:
                sheet.save(partial, format="PNG")
        except OSError as error:
            self.say(f"{printable(path)} cannot be written: {error.strerror or error}")
        else:
            self.say(f"Saved to {printable(path)}")

    def zoom(self, factor: float, at: tuple[float, float] | None = None) -> None:
        if self.film is not None:
            size = self._size()
            self.view = self.view.zoomed(factor, at or (size[0] / 2, size[1] / 2), self.film.shape[::-1], size)
            self.redraw()

    def fit(self) -> None:
        """The whole film, with its own grey levels."""
        self.view = View()
        self.redraw()

    def say(self, text: str) -> None:
        self.message.configure(text=text)

    def close(self) -> None:
        """Closes the window at once; the process ends when a running network has finished."""
        self._request += 1
        self.worker.close()
        self.destroy()

    # Between the threads

    def _do(self, tag: Any, work: Callable[[], Any]) -> None:
        self._waiting += 1
        if self._waiting == 1:
            self.spinner.pack(side="right")
            self.spinner.start(15)
        self.worker.jobs.put((tag, work))

    def _poll(self) -> None:
        while not self.worker.done.empty():
            tag, value = self.worker.done.get()
            self._waiting -= 1
            if self._waiting == 0:
                self.spinner.stop()
                self.spinner.pack_forget()
            self._take(tag, value)
        self.after(POLL_MS, self._poll)

    def _take(self, tag: Any, value: Any) -> None:
        """Handles a result of the worker: the networks, a film or a prediction."""
        if tag != "load" and tag[1] != self._request:
            return
        if isinstance(value, Exception):
            known = isinstance(value, ChexjaxError | OSError)
            message = str(value) if known else f"{type(value).__name__}: {value}"
            if tag == "load":
                self._without = f"Films are only shown, for the networks could not be loaded:\n{message}"
                message = self._without
            self.say(printable_lines(message)[:LONGEST])
            self._retitle("cannot be read" if tag[0] == "film" else "failed")
        elif tag == "load":
            self.classifier = value
            note = "" if np.isfinite(value.thresholds).any() else f" {NO_THRESHOLDS[0].upper()}{NO_THRESHOLDS[1:]}."
            self.say(f"Ready.{note} Ctrl+O opens a film.")
            self._retitle()
            self._predict()
        elif tag[0] == "film":
            self.judged = value
            self._show_status(value.verdict)
            self._redraw_cleaned()
            if self.classifier is not None:
                self._predict()
            elif not self._waiting:
                self.say(printable_lines(self._without)[:LONGEST])
                self._retitle("shown")
        elif tag[0] == "cleaned":
            self.cleaned = value
            self.redraw()
        else:
            self.prediction = value
            self._show_status(value.verdict)
            self.choose(value.ranked[0])

    def _predict(self) -> None:
        if self.judged is None or self.classifier is None or self.film_path is None:
            return
        name, judged, classifier = printable(self.film_path.name), self.judged, self.classifier
        if judged.verdict.status == "refused":
            self.say("The networks were not asked about this film: it is refused.")
            self._retitle("refused")
            return
        self.say("The networks look at the film …")
        self._do(("prediction", self._request), lambda: next(classifier.explain([classifier.prepare(name, judged)])))

    def _show_status(self, verdict: Verdict) -> None:
        self.status.configure(text=status_line(verdict), foreground=FAINT if verdict.status == "ok" else ABOVE)

    def _redraw_cleaned(self) -> None:
        """Redraws; if the cleaned film is to be shown, the worker cleans it first."""
        if self.show_cleaned.get() and self.film is not None and self.cleaned is None:
            film, recipe = self.film, self.classifier.recipe if self.classifier else Recipe()
            self._do(("cleaned", self._request), lambda: clean_film(film, recipe))
        self.redraw()

    # Drawing

    def redraw(self) -> None:
        """Schedules one redraw for when Tk is idle, however often it is called."""
        if not self._drawing:
            self._drawing = True
            self.after_idle(self._draw)

    def _draw(self) -> None:
        self._drawing = False
        self.canvas.delete("all")
        picture = self._picture()
        if picture is not None:
            self._photo = ImageTk.PhotoImage(picture, master=self)
            self.canvas.create_image(0, 0, image=self._photo, anchor="nw")

    def _picture(self) -> Image.Image | None:
        if self.film is None:
            return None
        film, map2d, boxes = self.film, None, tuple[MapBox, ...]()
        if self.show_cleaned.get() and self.cleaned is not None:
            film = self.cleaned
        if self.prediction is not None and self.finding is not None and self.show_map.get():
            map2d = self.prediction.map(self.finding)
            if self.show_boxes.get():
                if self.finding not in self._boxes:
                    self._boxes[self.finding] = tuple(self.prediction.boxes(self.finding))
                boxes = self._boxes[self.finding]
        return render(film, self.view, self._size(), map2d, boxes, self.opacity.get())

    def _size(self) -> tuple[int, int]:
        return max(self.canvas.winfo_width(), 1), max(self.canvas.winfo_height(), 1)

    def _draw_list(self) -> None:
        self.list.delete("all")
        if self.prediction is None:
            return
        line, width = self._line, self.list.winfo_width()
        height, rows = self._row_height(), list_rows(self.prediction)
        self.list.configure(scrollregion=(0, 0, width, max(height * len(rows), self.list.winfo_height())))
        for index, row in enumerate(rows):
            top = index * height
            colour = ABOVE if row.above else TEXT
            if row.finding == self.finding:
                self.list.create_rectangle(1, top + 1, width - 2, top + height - 1, fill=CHOSEN, outline=BAR)
            self.list.create_text(line // 2, top + height * 0.32, text=row.text, anchor="w", fill=colour)
            self.list.create_text(width - line // 2, top + height * 0.32, text=row.figure, anchor="e", fill=colour)
            left, length = line // 2, width - line
            y0, y1 = top + height * 0.66, top + height * 0.84
            self.list.create_rectangle(left, y0, left + length, y1, fill="#33373d", outline="")
            self.list.create_rectangle(
                left, y0, left + length * row.bar, y1, fill=ABOVE if row.above else BAR, outline=""
            )
            if row.mark is not None:
                x = left + length * row.mark
                self.list.create_line(x, y0 - 2, x, y1 + 2, fill="white", width=2)

    def _row_height(self) -> float:
        """The height of a row: rows fill the list, between the height for `_ROWS` rows and the lowest legible one."""
        count = len(self.prediction.ranked) if self.prediction else _ROWS
        return max(self.list.winfo_height() / max(count, _ROWS), 1.6 * self._line)

    def _scroll_list(self, rows: int) -> None:
        self.list.yview_scroll(rows, "units")

    def _click_list(self, event: Any) -> None:
        self.list.focus_set()
        if self.prediction is not None:
            index = int(self.list.canvasy(event.y) / self._row_height())
            if 0 <= index < len(self.prediction.ranked):
                self.choose(self.prediction.ranked[index])

    def _retitle(self, state: str = "") -> None:
        """Sets the title: the film, the finding and the state of the work."""
        if self.film_path is None:
            self.title("chexjax" if self.classifier is None else "chexjax: ready")
        elif self.prediction is None or self.finding is None:
            self.title(f"chexjax: {printable(self.film_path.name)} {state or '…'}")
        else:
            figure = format_figure(self.prediction.probability(self.finding), 3)
            self.title(f"chexjax: {printable(self.film_path.name)}, {format_name(self.finding)} {figure}")

    # The mouse

    def _press(self, event: Any) -> None:
        self.canvas.focus_set()
        self._dragged = (event.x, event.y)

    def _drag(self, mode: Callable[[float, float], None], event: Any) -> None:
        if self._dragged is not None:
            dx, dy = event.x - self._dragged[0], event.y - self._dragged[1]
            self._dragged = (event.x, event.y)
            mode(dx, dy)

    def _pan(self, dx: float, dy: float) -> None:
        if self.film is not None:
            self.view = self.view.panned(dx, dy, self.film.shape[::-1], self._size())
            self.redraw()

    def _window(self, dx: float, dy: float) -> None:
        self.view = self.view.windowed(dx, dy)
        self.redraw()

    def _fade(self, change: float, event: Any) -> str:
        """While the slider has the focus, the arrow keys move only it; Tk's own step is its whole length."""
        self.opacity.set(min(max(self.opacity.get() + change, 0.0), 1.0))
        self.redraw()
        return "break"

    def _toggle(self, variable: tk.BooleanVar) -> None:
        variable.set(not variable.get())
        self._redraw_cleaned()
