"""Films in, findings and their places out: in Python the `Classifier`, and a command over files, folders and DICOM.

    from chexjax.predict import Classifier
    python -m chexjax.predict --checkpoint=WORKDIR FILE_OR_FOLDER... --out=DIR

The names of this package are loaded when they are first used: `--help` needs no JAX.

- `classifier`: the networks of a workdir, applied to films.
- `films`: which files are films, and any film as uint8 grey levels.
- `batch`: many films, read ahead; `drawing`: the processes that draw them; `journal`: what is done of them.
- `tables`: the CSV files and the page, made from the journals.

`chexjax.commands.predict` is the command, and `chexjax.commands.join` the one that joins the shards of a job array.
"""

from typing import TYPE_CHECKING, Final

from chexjax.lazy import lazy

if TYPE_CHECKING:
    from chexjax.predict.batch import Options as Options
    from chexjax.predict.batch import draw as draw
    from chexjax.predict.batch import predict_files as predict_files
    from chexjax.predict.classifier import NO_THRESHOLDS as NO_THRESHOLDS
    from chexjax.predict.classifier import Classifier as Classifier
    from chexjax.predict.classifier import Prediction as Prediction
    from chexjax.predict.classifier import Scores as Scores
    from chexjax.predict.classifier import clean_film as clean_film
    from chexjax.predict.classifier import read_thresholds as read_thresholds
    from chexjax.predict.classifier import restore_best as restore_best
    from chexjax.predict.films import Film as Film
    from chexjax.predict.films import as_film as as_film
    from chexjax.predict.films import check_out as check_out
    from chexjax.predict.films import find_files as find_files
    from chexjax.predict.films import looks_like_film as looks_like_film

TRAIN_FIRST: Final = "python -m chexjax.main --config=configs/baseline.py --workdir=runs/first"

_MODULES: Final = {
    "batch": ("Options", "draw", "predict_files"),
    "classifier": (
        "NO_THRESHOLDS", "Classifier", "Prediction", "Scores", "clean_film", "read_thresholds", "restore_best",
    ),
    "films": ("Film", "as_film", "check_out", "find_files", "looks_like_film"),
}  # fmt: skip
_HOMES: Final = {name: module for module, names in _MODULES.items() for name in names}

__getattr__, __dir__ = lazy(__name__, _HOMES)
