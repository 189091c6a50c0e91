"""Whether a film may be judged: a status and its reasons, made by who reads a film and by each check after it."""

from dataclasses import dataclass
from typing import Final, Literal

Status = Literal["ok", "doubtful", "refused"]
COLUMNS: Final = ("status", "reasons")  # of a predictions CSV
_RANK: Final[dict[Status, int]] = {"ok": 0, "doubtful": 1, "refused": 2}


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one film: `ok`, `doubtful` or `refused`, and why, each reason a short phrase.

    Verdicts add up: the worse status holds, the reasons follow one another.

    >>> Verdict("doubtful", ("lateral view",)) + Verdict("refused", ("modality CT",))
    Verdict(status='refused', reasons=('lateral view', 'modality CT'))
    """

    status: Status = "ok"
    reasons: tuple[str, ...] = ()

    def __add__(self, other: "Verdict") -> "Verdict":
        worse = max(self.status, other.status, key=_RANK.__getitem__)
        return Verdict(worse, tuple(dict.fromkeys(self.reasons + other.reasons)))
