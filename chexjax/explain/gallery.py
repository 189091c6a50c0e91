"""`index.html`: films with their maps, sorted by any finding. One file, no script or style from elsewhere."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from chexjax.findings import FINDINGS, RADIOLOGY


@dataclass(frozen=True)
class Card:
    """A film of the gallery. `pictures` are (finding, path below the page); `probabilities`, `thresholds` have 14."""

    name: str
    pictures: tuple[tuple[str, str], ...]
    probabilities: tuple[float, ...]
    thresholds: tuple[float | None, ...]


def gallery(cards: Sequence[Card], title: str, note: str) -> str:
    """The page as text; every name in it is escaped, every address quoted."""
    options = "".join(f'<option value="{k}">{escape(_plain(finding))}</option>' for k, finding in enumerate(FINDINGS))
    return _PAGE.format(
        title=escape(title),
        note=escape(note),
        options=options,
        cards="\n".join(map(_card, cards)),
        hints=escape(json.dumps([RADIOLOGY[finding] for finding in FINDINGS]), quote=True),
    )


def _card(card: Card) -> str:
    pictures = "".join(
        f'<a href="{quote(path)}"><img loading="lazy" src="{quote(path)}" alt="{escape(_plain(finding))}"></a>'
        for finding, path in card.pictures
    )
    rows = "".join(
        _row(finding, probability, threshold)
        for finding, probability, threshold in zip(FINDINGS, card.probabilities, card.thresholds, strict=True)
    )
    figures = escape(json.dumps([round(p, 6) for p in card.probabilities]), quote=True)
    called = escape(
        json.dumps([t is not None and p >= t for p, t in zip(card.probabilities, card.thresholds, strict=True)])
    )
    return (
        f'<article data-p="{figures}" data-c="{called}"><h2>{escape(card.name)}</h2>'
        f'<div class="pictures">{pictures}</div><table>{rows}</table></article>'
    )


def _row(finding: str, probability: float, threshold: float | None) -> str:
    above = threshold is not None and probability >= threshold
    mark = "" if threshold is None else f'<i style="left:{100 * threshold:.1f}%"></i>'
    told = "n/a" if threshold is None else f"{threshold:.3f}"
    return (
        f"<tr{' class=above' if above else ''}><td>{escape(_plain(finding))}</td>"
        f'<td class="bar"><b style="width:{100 * probability:.1f}%"></b>{mark}</td>'
        f'<td title="threshold {told}">{probability:.3f}</td></tr>'
    )


def _plain(finding: str) -> str:
    return finding.replace("_", " ")


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 0; background: #16181b; color: #e6e6e6 }}
header {{ position: sticky; top: 0; z-index: 1; background: #16181b; padding: .7em 1em; border-bottom: 1px solid #444 }}
h1 {{ font-size: 1.1em; margin: 0 0 .3em }}
header p {{ margin: .2em 0; color: #a9adb3 }}
label {{ margin-right: 1.2em }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1em; padding: 1em }}
article {{ background: #1f2226; border: 1px solid #3a3d42; border-radius: 6px; padding: .8em }}
h2 {{ font-size: .95em; margin: 0 0 .5em; overflow-wrap: anywhere }}
.pictures {{ display: flex; gap: .4em; overflow-x: auto }}
img {{ height: 260px; display: block }}
table {{ width: 100%; border-spacing: 0; font-size: .85em; margin-top: .5em }}
td {{ padding: 0 .3em; color: #a9adb3; white-space: nowrap }}
.above td {{ color: #ffb454; font-weight: 600 }}
.sorted td {{ background: #2c3138 }}
.bar {{ width: 50%; position: relative; padding: 0 }}
.bar b {{ display: block; height: .7em; background: #5b8def }}
.above .bar b {{ background: #ffb454 }}
.bar i {{ position: absolute; top: 0; bottom: 0; width: 2px; background: #fff }}
</style></head><body>
<header><h1>{title}</h1><p>{note}</p>
<label>Sort by <select id="by"><option value="-1">name</option>{options}</select></label>
<label><input type="checkbox" id="only"> only films at or above that finding's threshold</label>
<p id="hint" data-hints="{hints}"></p></header>
<main>
{cards}
</main>
<script>
const main = document.querySelector("main"), by = document.getElementById("by"), only = document.getElementById("only");
const hint = document.getElementById("hint"), hints = JSON.parse(hint.dataset.hints);
const cards = [...main.children].map((node, place) => ({{
  node, place, p: JSON.parse(node.dataset.p), called: JSON.parse(node.dataset.c)}}));
function show() {{
  const k = Number(by.value);
  cards.sort((a, b) => k < 0 ? a.place - b.place : b.p[k] - a.p[k] || a.place - b.place);
  for (const card of cards) {{
    card.node.hidden = only.checked && k >= 0 && !card.called[k];
    [...card.node.querySelectorAll("tr")].forEach((row, j) => row.classList.toggle("sorted", j === k));
    main.append(card.node);
  }}
  hint.textContent = k < 0 ? "" : hints[k];
}}
by.addEventListener("change", show);
only.addEventListener("change", show);
</script></body></html>
"""
