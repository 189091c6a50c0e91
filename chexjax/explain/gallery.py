"""`index.html` of a prediction: films with their maps, sorted by any finding; of many films, several such pages.

A page is one file that fetches nothing but its pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chexjax.templates import render


@dataclass(frozen=True)
class Card:
    """A film of the gallery. `pictures` are (finding, path below the page); the figures have the findings' order.

    A threshold that is not known is None. A film that is refused has no figures. `status` and `reasons` are those of
    its `Verdict`; `flat` are the findings whose map shows no place.
    """

    name: str
    pictures: tuple[tuple[str, str], ...]
    probabilities: tuple[float, ...]
    thresholds: tuple[float | None, ...]
    status: str = "ok"
    reasons: tuple[str, ...] = ()
    flat: tuple[str, ...] = ()

    @property
    def called(self) -> list[bool]:
        """Which findings are at or above their threshold."""
        pairs = zip(self.probabilities, self.thresholds, strict=True)
        return [threshold is not None and probability >= threshold for probability, threshold in pairs]


def gallery(
    cards: Sequence[Card],
    findings: Sequence[str],
    title: str,
    note: str,
    hints: Mapping[str, str] | None = None,
    pages: Sequence[str] = ("index.html",),
    page: str = "index.html",
) -> str:
    """The page as text.

    Args:
      hints: a line on how some of the findings look.
      pages: the names of all pages of this gallery, of which this is `page`.
    """
    lines = [(hints or {}).get(finding, "") for finding in findings]
    return render(
        "gallery.html",
        cards=cards,
        findings=findings,
        title=title,
        note=note,
        hints=lines,
        pages=pages,
        here=pages.index(page),
    )
