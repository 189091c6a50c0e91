"""Joins the predictions of a job array into one set of tables and one page.

    python -m chexjax.predict.join OUT

OUT is the --out of the jobs, each of which was `python -m chexjax.predict ... --out=OUT --shard=K/N`. Films are in the
order that a single job would have given. If shards are missing or unfinished, they are named and nothing is written.

Exit status: as for `python -m chexjax.predict`.
"""

import sys
from collections import Counter
from pathlib import Path

from absl import flags

from chexjax.commands.predict import report
from chexjax.errors import ConfigError, command, usage
from chexjax.runtime import parse


@command
def main() -> None:
    """The command line."""
    values = flags.FlagValues()
    with usage():
        rest = parse(sys.argv, values, __doc__)
        if len(rest) != 1:
            raise ConfigError("usage: python -m chexjax.predict.join OUT")
        join(Path(rest[0]).expanduser())


def join(out: Path) -> None:
    """Writes the tables and the page, prints a summary, and exits with the matching status."""
    from chexjax.predict.journal import find_journals, remove_journals
    from chexjax.predict.tables import write_tables

    journals, ends = find_journals(out)
    summary = write_tables(out, journals)
    remove_journals(out)
    print(f"{summary.scored:,} films of {len(journals)} shards: {out}/predictions.csv")
    passed_over: Counter[str] = Counter()
    for end in ends:
        passed_over.update(end["passed_over"])
    report(summary, passed_over, print)
    raise SystemExit(summary.status)
