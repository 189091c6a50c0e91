"""The command line of prediction: its flags, the order of its checks, and its closing messages.

Libraries are loaded after the flags are parsed, so `--help` and a mistyped flag are answered at once.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from absl import flags

from chexjax.errors import ConfigError, command, first_ten, printable, printable_lines, usage
from chexjax.predict import TRAIN_FIRST
from chexjax.runtime import parse

if TYPE_CHECKING:
    from chexjax.predict.tables import Summary

MAPS: Final = "cam, grad_cam, grad_cam_plus_plus, layer_cam, saliency, integrated_gradients, or fine"
_SHOWN: Final = 10  # errors that are printed; errors.csv has all

ABOUT: Final = """Predicts findings and their locations from films.

    python -m chexjax.predict --checkpoint=WORKDIR FILE_OR_FOLDER... --out=DIR

In DIR: predictions.csv (Image Index, a probability a finding, status and reasons), boxes.csv, overlays/, and
index.html, which sorts the films by finding. A film that cannot be read gets a row in errors.csv; the rest are scored.
After an interruption, the same command resumes the work. No table and no message holds a path or a DICOM header's text,
unless --paths or --uids asks; text that is burnt into the pixels stays there.

In a job array, give each job --shard=K/N; then python -m chexjax.predict.join DIR writes the tables of all jobs.

Exit status: 0 all films scored, 1 some not, 2 none, 64 usage or checkpoint, 130 interrupted.
"""


def define_flags(values: flags.FlagValues) -> None:
    """The flags of the command."""
    flags.DEFINE_string("checkpoint", None, "The workdir of a training run, or imported weights.", flag_values=values)
    flags.DEFINE_string("out", None, "The folder for the tables, the overlays and the page.", flag_values=values)
    flags.DEFINE_string("network", "ensemble", "One network (net1, ...); by default all, averaged.", flag_values=values)
    flags.DEFINE_string(
        "maps", "best",
        f"{MAPS}; best: the kind that chexjax check-maps found to point best, cam where it was not run.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer("batch_size", 8, "Films at once.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "overlays", 3, "At most so many findings are drawn a film; 0: tables alone, without maps or boxes.",
        lower_bound=0, flag_values=values,
    )  # fmt: skip
    flags.DEFINE_boolean("raw", False, "Leaves out the calibration that the run fitted.", flag_values=values)
    flags.DEFINE_string(
        "prevalence", None, "A CSV with the columns finding,prevalence: calibrates for a site with these prevalences.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_boolean("strict", False, "Refuses doubtful films: no probabilities in their rows.", flag_values=values)
    flags.DEFINE_string("shard", "1/1", "K/N: the K-th of N parts of the films, for job arrays.", flag_values=values)
    flags.DEFINE_boolean("json", False, "Prints a line of JSON a film, as it is done.", flag_values=values)
    flags.DEFINE_boolean("uids", False, "Adds uids.csv: study, series and instance of DICOM films.", flag_values=values)
    flags.DEFINE_string(
        "dicom-out", None, "A folder for DICOM results: of each DICOM film a report, its boxes, an overlay.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_boolean("paths", False, "Adds paths.csv: where each film lies.", flag_values=values)


@command
def main() -> None:
    """The command line."""
    values = flags.FlagValues()
    define_flags(values)
    with usage():
        rest = parse(sys.argv, values, ABOUT)
        if not rest or not values.out:
            raise ConfigError(
                "usage: python -m chexjax.predict --checkpoint=WORKDIR FILE_OR_FOLDER... --out=DIR; --help"
            )
        if not values.checkpoint:
            raise ConfigError(f"no --checkpoint=WORKDIR is given; one is made by\n{TRAIN_FIRST}")
        shard = read_shard(values.shard)
    run(values, rest, shard)


def run(values: flags.FlagValues, rest: list[str], shard: tuple[int, int]) -> None:
    """Predicts, prints a summary, and exits with the matching status."""
    from chexjax.devices import find_devices
    from chexjax.dicom_out.results import check_installed
    from chexjax.predict.batch import Options, score_films
    from chexjax.predict.classifier import NO_THRESHOLDS, Classifier
    from chexjax.predict.drawing import cores
    from chexjax.predict.films import check_out, find_films
    from chexjax.predict.journal import check_shards, remove_journals
    from chexjax.predict.tables import summarize, write_tables
    from chexjax.trust.calibration import read_prevalence

    out = Path(values.out).expanduser()
    with usage():
        find_devices()
        found = find_films(rest)
        wanted = values["dicom-out"].value
        folder = Path(wanted).expanduser() if wanted else None
        inputs = [*map(Path, rest), *found.files.values()]
        check_out(out, inputs)
        check_shards(out, shard[1])
        if folder:
            check_out(folder, inputs, "--dicom-out")
        count = max(len(found.files), 1)
        classifier = Classifier.from_checkpoint(
            values.checkpoint,
            values.maps,
            min(values.batch_size, count),
            values.network,
            values.raw,
            read_prevalence(Path(values.prevalence).expanduser()) if values.prevalence else None,
        )
        if folder:
            check_installed()
            if not values.overlays:
                raise ConfigError("--dicom-out needs maps, and --overlays=0 makes none")
        options = Options(values.overlays, values.strict, values.uids, values.paths, shard, cores(), folder)
        out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    passed_over = found.passed_over if shard[0] == 1 else Counter()  # each shard sees the same files
    tell = (lambda record: print(json.dumps(record), flush=True)) if values.json else None
    journal = score_films(classifier, found.files, out, options, tell=tell, about={"passed_over": dict(passed_over)})
    alone = shard[1] == 1
    summary = write_tables(out, [journal]) if alone else summarize([journal])
    if alone:
        remove_journals(out)
    seconds = time.perf_counter() - began
    say = _to_stderr if values.json else print
    if not classifier.knows_thresholds:
        say(NO_THRESHOLDS)
    where = f"{values.out}/{'index.html' if values.overlays else 'predictions.csv'}"
    if not alone:
        where = f"shard {values.shard} in {values.out}; when all are done: python -m chexjax.predict.join {values.out}"
    say(f"{summary.scored} films in {seconds:.1f} s, {summary.scored / seconds:.1f} images/s with compilation: {where}")
    report(summary, passed_over, say)
    raise SystemExit(status_of(summary, alone))


def report(summary: "Summary", passed_over: Mapping[str, int], say: Callable[[str], None]) -> None:
    """Prints notes on the tables, and on stderr the films that could not be read."""
    if passed_over:
        say(f"skipped, files without a film: {_counted(passed_over)}")
    if summary.refused:
        say(f"refused, without probabilities: {_counted(summary.refused)}")
    if summary.doubtful:
        say(f"doubtful: {summary.doubtful:,}; predictions.csv says why")
    if summary.flat:
        say(f"{summary.flat:,} of {summary.called:,} called findings have a flat map, hence no box")
    for name, reason in list(summary.errors.items())[:_SHOWN]:
        _to_stderr(f"{name}: {reason}")
    if summary.errors:
        _to_stderr(f"error: not read, and listed in errors.csv: {first_ten(list(summary.errors))}")


def _counted(kinds: Mapping[str, int]) -> str:
    """`5: 3 structured report, 2 PDF`."""
    return f"{sum(kinds.values()):,}: {', '.join(f'{count:,} {kind}' for kind, count in sorted(kinds.items()))}"


def status_of(summary: "Summary", alone: bool = True) -> int:
    """0 if all films were scored, 1 if some were not, 2 if none was; 0 for a shard without films."""
    return summary.status if alone or summary.films else 0


def read_shard(text: str) -> tuple[int, int]:
    """`3/16` as (3, 16).

    Raises:
      ConfigError: it is no such pair, or there is no such part.
    """
    number, _, count = text.partition("/")
    if not (_is_count(number) and _is_count(count) and 1 <= int(number) <= int(count)):
        raise ConfigError(f"--shard={printable(text)}; it takes K/N with K from 1 to N, such as 1/8")
    return int(number), int(count)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 7


def _to_stderr(text: str) -> None:
    print(printable_lines(text), file=sys.stderr, flush=True)
