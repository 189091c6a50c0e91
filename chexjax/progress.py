"""A progress bar over films, quiet where no one watches."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(films: int, label: str, done: int = 0, shown: bool = True, kept: bool = True) -> Any:
    """A bar that shows films a second and the time left; in a log file, a line every half minute.

    One that is not `kept` goes away when it is full.
    """
    watched = sys.stderr.isatty()
    return tqdm(
        total=films,
        initial=done,
        desc=label,
        unit=" films",
        mininterval=0.2 if watched else 30.0,
        maxinterval=10.0 if watched else 60.0,
        disable=not shown,
        leave=kept,
    )
