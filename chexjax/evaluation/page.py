"""The pieces of an HTML page that stands alone: one file, no script, no network, light and dark, wide and narrow.

Every piece is a string of HTML. Text that comes in is escaped here: nothing in a file name or a table becomes markup.
"""

import base64
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from chexjax.evaluation import metrics

Point = tuple[float, float]

STYLE: Final = """
:root { --back: #ffffff; --text: #1c2430; --dim: #5b6675; --line: #d7dce3; --shade: #f3f5f8; --warn: #8a4b00;
  --c0: #1f6fb2; --c1: #c8551b; --c2: #6b7280; --c3: #2b8a3e; --c4: #8e44ad; --c5: #b5302a; }
@media (prefers-color-scheme: dark) { :root { --back: #14181e; --text: #dde3ea; --dim: #97a3b2; --line: #333c48;
  --shade: #1d232b; --warn: #f0b35e; --c0: #6cb2f0; --c1: #f39a66; --c2: #aab4c0; --c3: #74cf86; --c4: #cf9be6;
  --c5: #f08a84; } }
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 1180px; padding: 1.5rem 1.25rem 4rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, ul { max-width: 75ch; margin: .4rem 0 .8rem; } li { margin: .15rem 0; } a { color: var(--c0); }
.dim, figcaption, .note { color: var(--dim); font-size: .87rem; }
.warn { border-left: 4px solid var(--warn); background: var(--shade); padding: .5rem .8rem; max-width: 75ch; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .8rem 0; font-size: .9rem; }
.scroll { overflow-x: auto; margin: .5rem 0 .3rem; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; background: var(--shade); font-weight: 600; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--back); }
thead th:first-child { background: var(--shade); }
tr.lead td { font-weight: 600; } td small { color: var(--dim); font-weight: 400; }
table.words td, table.words th { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 1rem; margin: .6rem 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 1.2rem; max-width: 640px; }
figure { margin: 0; } figure svg { width: 100%; height: auto; display: block; } figcaption { overflow-wrap: anywhere; }
figure img { width: 100%; display: block; image-rendering: auto; background: #000; }
svg text { font: 10px system-ui, sans-serif; fill: var(--dim); } svg .axis { stroke: var(--line); fill: none; }
svg .even { stroke: var(--dim); stroke-dasharray: 2 3; opacity: .6; } svg polyline { fill: none; stroke-width: 1.6; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .87rem; margin: .2rem 0; }
.key span::before { content: ""; display: inline-block; width: 1.1rem; height: .2rem; border-radius: 2px;
  margin-right: .4rem; vertical-align: middle; background: var(--colour); }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--c0); }
pre { overflow-x: auto; background: var(--shade); padding: .7rem; font-size: .8rem; line-height: 1.4; }
"""


def page(title: str, subtitle: str, sections: Mapping[str, str]) -> str:
    """The whole document: a heading, links to the sections, and the sections (heading -> HTML)."""
    anchors = {heading: f"s{k}" for k, heading in enumerate(sections)}
    links = "".join(f'<a href="#{anchor}">{escape(heading)}</a>' for heading, anchor in anchors.items())
    body = "\n".join(
        f'<h2 id="{anchors[heading]}">{escape(heading)}</h2>\n{text}' for heading, text in sections.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        f'<p class="dim">{escape(subtitle)}</p>\n<nav>{links}</nav>\n{body}\n</body></html>\n'
    )


def escape(text: object) -> str:
    """Text as HTML shows it."""
    return html.escape(str(text), quote=True)


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is "", "note" (small print) or "warn"."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def bullets(lines: Sequence[str]) -> str:
    """A list of lines."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def folded(summary: str, content: str) -> str:
    """HTML that a click unfolds."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], lead: int = 0, words: bool = False) -> str:
    """A table that scrolls sideways where there is no room.

    Args:
      heads: a line break in one is kept.
      rows: cells of text; what stands in parentheses at a cell's end is shown small.
      lead: how many rows at the top are set off.
      words: cells hold text, not figures: they wrap and stand left.
    """
    top = "".join(f"<th>{escape(head).replace(chr(10), '<br>')}</th>" for head in heads)
    body = "".join(
        f"<tr{' class=lead' if k < lead else ''}>" + "".join(f"<td>{_small(cell)}</td>" for cell in row) + "</tr>"
        for k, row in enumerate(rows)
    )
    kind = ' class="words"' if words else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _small(cell: str) -> str:
    """`0.79 (0.77-0.81)` with its interval in small print."""
    figure, opened, rest = cell.partition(" (")
    return f"{escape(figure)} <small>({escape(rest)}</small>" if opened else escape(cell)


def key(names: Sequence[str]) -> str:
    """Which colour is whose."""
    spans = (f'<span style="--colour: var(--c{k % 6})">{escape(name)}</span>' for k, name in enumerate(names))
    return f'<div class="key">{"".join(spans)}</div>'


def image(data: bytes, kind: str, alt: str, caption: str) -> str:
    """A picture inside the page; `kind` is "png" or "jpeg"."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<figure><img src="{source}" alt="{escape(alt)}"><figcaption>{escape(caption)}</figcaption></figure>'


def grid(figures: Sequence[str]) -> str:
    """Figures side by side, as many as there is room for."""
    return f'<div class="grid">{"".join(figures)}</div>'


def chart(
    lines: Sequence[Sequence[Point]],
    caption: str,
    labels: tuple[str, str],
    x_range: Point = (0.0, 1.0),
    y_range: Point = (0.0, 1.0),
    diagonal: bool = False,
    dots: bool = False,
    colours: Sequence[int] | None = None,
    dashed: Sequence[bool] | None = None,
) -> str:
    """A small chart of lines, in SVG; the k-th has the k-th colour of `key`, unless `colours` says otherwise.

    Args:
      lines: points (x, y) each.
      labels: of the axes.
      diagonal: draws a line from corner to corner.
      dots: marks the points.
      dashed: which lines are.
    """
    left, top, width, height = 40.0, 6.0, 180.0, 150.0

    def place(point: Point) -> str:
        x = left + width * (point[0] - x_range[0]) / ((x_range[1] - x_range[0]) or 1.0)
        y = top + height * (1.0 - (point[1] - y_range[0]) / ((y_range[1] - y_range[0]) or 1.0))
        return f"{x:.1f},{y:.1f}"

    drawn = [f'<path class="axis" d="M{left},{top}V{top + height}H{left + width}"/>']
    for share in (0.0, 0.5, 1.0):
        x, y = (low + share * (high - low) for low, high in (x_range, y_range))
        drawn.append(f'<text x="{left + share * width}" y="{top + height + 13}" text-anchor="middle">{x:.3g}</text>')
        drawn.append(f'<text x="{left - 4}" y="{top + (1 - share) * height + 3}" text-anchor="end">{y:.3g}</text>')
    drawn.append(
        f'<text x="{left + width / 2}" y="{top + height + 27}" text-anchor="middle">{escape(labels[0])}</text>'
    )
    middle = top + height / 2
    drawn.append(
        f'<text x="9" y="{middle}" text-anchor="middle" transform="rotate(-90 9 {middle})">{escape(labels[1])}</text>'
    )
    if diagonal:
        drawn.append(
            f'<polyline class="even" points="{place((x_range[0], y_range[0]))} {place((x_range[1], y_range[1]))}"/>'
        )
    for k, line in enumerate(lines):
        colour = f"var(--c{(colours[k] if colours else k) % 6})"
        dash = ' stroke-dasharray="4 3"' if dashed and dashed[k] else ""
        points = [place(point) for point in line]
        drawn.append(f'<polyline stroke="{colour}"{dash} points="{" ".join(points)}"/>')
        if dots:
            drawn += [f'<circle r="2" fill="{colour}" cx="{{}}" cy="{{}}"/>'.format(*p.split(",")) for p in points]
    picture = f'<svg viewBox="0 0 {left + width + 14} {top + height + 32}" role="img">{"".join(drawn)}</svg>'
    return f"<figure><figcaption>{escape(caption)}</figcaption>{picture}</figure>"


def roc_charts(labels: np.ndarray, probabilities: Mapping[str, np.ndarray], findings: Sequence[str]) -> str:
    """A ROC curve per finding, a line per model; labels and each model's probabilities are (films, findings)."""
    charts = []
    for k, finding in enumerate(findings):
        lines = []
        for scores in probabilities.values():
            alarms, hits, _ = metrics.roc_curve(labels[:, k], scores[:, k])
            lines.append(_thinned(alarms, hits) if metrics.why_undefined(labels[:, k]) is None else [])
        reason = metrics.why_undefined(labels[:, k])
        charts.append(
            chart(
                lines,
                f"{finding}: n/a, {reason}" if reason else finding,
                ("1 - specificity", "sensitivity"),
                diagonal=True,
            )
        )
    return key(list(probabilities)) + grid(charts)


def reliability_charts(labels: np.ndarray, probabilities: Mapping[str, np.ndarray], findings: Sequence[str]) -> str:
    """What was found against what was predicted, per finding; the axes end where the predictions do."""
    charts = []
    for k, finding in enumerate(findings):
        lines = []
        for scores in probabilities.values():
            curve = metrics.reliability_curve(labels[:, k], scores[:, k])
            filled = curve.films > 0
            lines.append(list(zip(curve.predicted[filled], curve.observed[filled], strict=True)))
        end = max((max(point) for line in lines for point in line), default=1.0)
        end = min(math.ceil(10 * end) / 10, 1.0) or 0.1
        labelled = ("predicted", "found")
        charts.append(chart(lines, finding, labelled, (0, end), (0, end), diagonal=True, dots=True))
    return key(list(probabilities)) + grid(charts)


def _thinned(x: np.ndarray, y: np.ndarray, step: float = 0.004) -> list[Point]:
    """The points that differ on a grid of `step`: a curve of 100,000 films has a few hundred."""
    places = np.round(np.stack([x, y], axis=1) / step)
    kept = np.concatenate([[True], (np.diff(places, axis=0) != 0).any(axis=1)])
    kept[-1:] = True
    return [(float(a), float(b)) for a, b in zip(x[kept], y[kept], strict=True)]


def confusion_table(findings: Sequence[str], figures: Mapping[str, Any]) -> str:
    """Counts and shares of one model at each threshold from validation; `figures` is its entry of `metrics.json`."""
    rows = []
    for finding in findings:
        for rule, at in figures["at_thresholds"].get(finding, {}).items():
            threshold = figures["thresholds"][finding][rule]
            told = RULES.get(rule, rule.replace("_", " ") + " %")
            if at is None:
                rows.append([finding, told, *["n/a"] * 8])
                continue
            counts = [str(at[kind]) for kind in _COUNTS]
            shares = ["n/a" if at[share] is None else f"{at[share]:.3f}" for share in _SHARES]
            rows.append([finding, told, f"{threshold:.4f}", *counts, *shares])
    heads = ["finding", "threshold by", "at", "TP", "FP", "FN", "TN", "sensitivity", "specificity", "precision"]
    return table(heads, rows)


RULES: Final = {"youden": "Youden's point"}  # what thresholds are called; the others are "sensitivity 90 %"
_COUNTS: Final = ("true_positives", "false_positives", "false_negatives", "true_negatives")
_SHARES: Final = ("sensitivity", "specificity", "precision")
