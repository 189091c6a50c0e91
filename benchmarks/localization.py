"""Do the maps of `predict` match radiologists' boxes? Against random maps and a centre prior.

    python -m benchmarks.localization --checkpoint=WORKDIR --dir=NIH_FOLDER [--exclude=CSV] [--maps=cam,fine]

NIH_FOLDER holds films, an entry file and `BBox_List_2017.csv`. Each film goes through `predict.Classifier`, as a user's
would; of each map of a boxed finding the peak and the first box are judged (`chexjax.evaluation.localization`).

CSV says which films were seen in training: `Image Index`, and second the part that the film's patient was in. Films
with `train` or `val` there are left out.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest import finish, introduce
from chexjax.data.images import read_grey
from chexjax.data.sources.nih import boxed_entries, boxes_by_case, find_films
from chexjax.errors import DataError, exit_with_message, first_ten
from chexjax.evaluation.localization import localize
from chexjax.evaluation.tables import as_markdown, localization_tables
from chexjax.predict import Classifier


def judge_folder(classifiers: Mapping[str, Classifier], folder: Path, exclude: Path | None = None) -> dict[str, Any]:
    """Localisation of several kinds of maps; a case is a finding on a film, with all its boxes.

    Raises:
      DataError: a film with a box is absent, or there is none.
    """
    entries = boxed_entries(folder, exclude)
    paths, missing = find_films(folder, entries)
    if missing or not entries:
        raise DataError(f"{folder}: films with boxes are missing, {first_ten(missing)}")
    truth = boxes_by_case(entries.values())
    maps: dict[str, list[np.ndarray]] = {}
    for kind, classifier in classifiers.items():
        films = ((name, read_grey(path)) for name, path in sorted(paths.items()))
        found = {
            (prediction.name, finding): prediction.map(finding)
            for prediction in classifier.predict_named(films)
            for finding in {box.finding for box in entries[prediction.name].boxes}
        }
        maps[kind] = [found[case] for case in truth]
    return localize(maps, [np.array(boxes) for boxes in truth.values()], [finding for _, finding in truth])


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Judges, and prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--exclude", type=Path)
    parser.add_argument("--maps", default="cam,fine")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    introduce(f"{options.checkpoint} on {options.dir}, maps: {options.maps}")
    with exit_with_message():
        classifiers = {kind: Classifier.from_checkpoint(options.checkpoint, kind) for kind in options.maps.split(",")}
        found = judge_folder(classifiers, options.dir, options.exclude)
    for kind, classifier in classifiers.items():
        print(f"{kind}: {classifier.maps}")
    for table in localization_tables(found):
        print(f"\n{table.title}\n\n{as_markdown(table)}")
    return finish({"checkpoint": options.checkpoint, "localization": found}, options.json)


if __name__ == "__main__":
    main()
