"""`index.html` of a prediction: films with their maps, sorted by any finding. One file that fetches nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chexjax.templates import render


@dataclass(frozen=True)
class Card:
    """A film of the gallery. `pictures` are (finding, path below the page); the figures have the findings' order.

    A threshold that is not known is None.
    """

    name: str
    pictures: tuple[tuple[str, str], ...]
    probabilities: tuple[float, ...]
    thresholds: tuple[float | None, ...]

    @property
    def called(self) -> list[bool]:
        """Which findings are at or above their threshold."""
        pairs = zip(self.probabilities, self.thresholds, strict=True)
        return [threshold is not None and probability >= threshold for probability, threshold in pairs]


def gallery(
    cards: Sequence[Card], findings: Sequence[str], title: str, note: str, hints: Mapping[str, str] | None = None
) -> str:
    """The page as text.

    Args:
      hints: a line on how some of the findings look.
    """
    lines = [(hints or {}).get(finding, "") for finding in findings]
    return render("gallery.html", cards=cards, findings=findings, title=title, note=note, hints=lines)
