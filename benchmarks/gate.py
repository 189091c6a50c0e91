"""Does the gate stop images that are not upright chest films? On inputs never used for tuning, beside a baseline.

    python -m benchmarks.gate --checkpoint=WORKDIR [--kind='NAME=GLOB' ...] [--films=500]

WORKDIR is an evaluated run. Its test films are judged as they are (false alarms), turned, mirrored, inverted, zoomed
(the middle half of each side) and cut to a corner (the same, top left). Beside them: noise; the photographs that
scikit-image, scikit-learn and SciPy bring along; CT and MR among pydicom's test files; and films of each `--kind`. Per
kind, the AUROC against the test films of the distance, of the log odds of the pose, and of one minus the highest
probability; and the share that is doubtful by each part of the gate. From a DICOM header, only the
elements that the pixels need are read.
"""

import glob
import importlib.util
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from benchmarks.contest import finish, introduce, parser_of, table
from chexjax.data.augment import normalize
from chexjax.data.dicom import read_film
from chexjax.data.films import open_films
from chexjax.data.pipeline import Records
from chexjax.data.recipe import shrink
from chexjax.devices import at_precision
from chexjax.errors import CheckpointError, ChexjaxError, exit_with_message
from chexjax.models.probability import probability_of
from chexjax.trust.domain import Domain
from chexjax.trust.features import see
from chexjax.trust.gate import judge_pixels
from chexjax.trust.kept import read_trust
from chexjax.workdir.restore import Restored, restore_best

Films = list[np.ndarray]
CHANGES: Final[dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "turned 90 left": lambda film: np.rot90(film),
    "turned 180": lambda film: np.rot90(film, 2),
    "turned 90 right": lambda film: np.rot90(film, 3),
    "mirrored": lambda film: film[:, ::-1],
    "inverted": lambda film: 255 - film,
    "zoomed": lambda film: film[_middle(film.shape[0]), _middle(film.shape[1])],
    "corner": lambda film: film[: film.shape[0] // 2, : film.shape[1] // 2],
}
_BATCH: Final = 32


def _middle(side: int) -> slice:
    return slice(side // 4, side - side // 4)


def noise(side: int, count: int = 100) -> dict[str, Films]:
    """Independent grey levels, and smooth clouds."""
    random = np.random.default_rng(0)
    plain = [random.integers(0, 256, (side, side)).astype(np.uint8) for _ in range(count)]
    clouds = []
    for k in range(count):
        cloud = gaussian_filter(random.standard_normal((side, side)), side / 2 ** (3 + k % 4))
        clouds.append((255 * (cloud - cloud.min()) / np.ptp(cloud)).astype(np.uint8))
    return {"noise": plain, "clouds": clouds}


def photographs() -> Films:
    """The packages' sample images in grey; empty if they are not installed."""
    folders = [("skimage", "data"), ("sklearn", "datasets/images"), ("scipy", "datasets")]
    specs = [importlib.util.find_spec(package) for package, _ in folders]
    paths = [
        path
        for spec, (_, folder) in zip(specs, folders, strict=True)
        if spec and spec.origin
        for path in sorted((Path(spec.origin).parent / folder).glob("*"))
        if path.suffix in (".png", ".jpg", ".jpeg", ".tif", ".gif")
    ]
    found = []
    for path in paths:
        with suppress(
            UnidentifiedImageError
        ):  # some TIFF files hold several pictures, in ways that Pillow does not read
            found.append(np.asarray(Image.open(path).convert("L")))
    return found


def scans() -> Films:
    """The CT and MR pictures among pydicom's test files that can be read; empty where it is not installed."""
    spec = importlib.util.find_spec("pydicom")
    if spec is None or spec.origin is None:
        return []
    import pydicom

    paths = sorted((Path(spec.origin).parent / "data" / "test_files").glob("*.dcm"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        headers = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in paths]
    return read([path for path, header in zip(paths, headers, strict=True) if header.get("Modality") in ("CT", "MR")])


def read(paths: Iterable[Path]) -> Films:
    """The films that can be read."""
    films = []
    for path in paths:
        try:
            films.append(read_film(path))
        except ChexjaxError as error:
            print(f"left out: {str(error).splitlines()[0]}")
    return films


def apply_network(restored: Restored, films: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The highest probability of each film, and its features, by the first network."""
    name, model = next(iter(restored.models.items()))
    data = restored.config.data

    def apply(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return see(model, variables, normalize(images, data.mean, data.std))

    run = jax.jit(at_precision("highest", apply))
    highest, features = [], []
    for start in range(0, len(films), _BATCH):
        small = [shrink(np.ascontiguousarray(film), data.size) for film in films[start : start + _BATCH]]
        batch = np.zeros((_BATCH, data.size, data.size, 1), np.uint8)
        batch[: len(small), ..., 0] = small
        logits, pooled = jax.device_get(run(restored.variables[name], batch))
        highest.append(probability_of(logits[: len(small)]).max(axis=1))
        features.append(pooled[: len(small)])
    return np.concatenate(highest), np.concatenate(features)


def judge(restored: Restored, domain: Domain, films: Films, limits: tuple[np.ndarray, ...] | None) -> dict[str, Any]:
    """The row of a kind. `limits` are the scores of the test films, by which AUROCs are taken."""
    highest, features = apply_network(restored, films)
    odds, _ = domain.pose_odds(features)
    scores = (domain.score(features), odds, 1 - highest)
    pixels = np.array([judge_pixels(film).status != "ok" for film in films])
    doubtful = {"distance": scores[0] > domain.limit, "pose": odds > domain.pose_limit, "pixels": pixels}
    doubtful["any"] = np.any(list(doubtful.values()), axis=0)
    row: dict[str, Any] = {"films": len(films), "scores": scores}
    row |= {f"doubtful by {name}": float(share.mean()) for name, share in doubtful.items()}
    if limits is not None:
        labels = np.repeat([0, 1], [len(limits[0]), len(films)])
        for name, ours, own in zip(("distance", "pose", "highest probability"), limits, scores, strict=True):
            row[f"AUROC of {name}"] = float(roc_auc_score(labels, np.concatenate([ours, own])))
    return row


COLUMNS: Final = (
    "AUROC of distance", "AUROC of pose", "AUROC of highest probability",
    "doubtful by distance", "doubtful by pose", "doubtful by pixels", "doubtful by any",
)  # fmt: skip


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Judges all kinds, and prints a table."""
    parser = parser_of(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--kind", action="append", default=[])
    parser.add_argument("--films", type=int, default=500)
    options = parser.parse_args(argv)
    introduce(f"{options.checkpoint}")
    with exit_with_message():
        restored = restore_best(options.checkpoint)
        domains = read_trust(restored).domains
        name = next(iter(restored.models))
        if name not in domains:
            raise CheckpointError(f"{options.checkpoint} has no gate; --mode=evaluate fits it")
        prepared = open_films(restored.config.data)
        records = Records(prepared.source("test"))
        test = [records[k]["image"][..., 0] for k in range(len(records))]
        some = [test[k] for k in np.sort(np.random.default_rng(0).permutation(len(test))[: options.films])]
        kinds = {change: [spoil(film) for film in some] for change, spoil in CHANGES.items()}
        kinds |= noise(restored.config.data.size) | {"photographs": photographs(), "CT and MR": scans()}
        for kind in options.kind:
            title, _, pattern = kind.partition("=")
            kinds[title] = read(map(Path, sorted(glob.glob(pattern))))
        rows = {"test films": judge(restored, domains[name], test, None)}
        limits = rows["test films"].pop("scores")
        for kind, films in kinds.items():
            if films:
                rows[kind] = judge(restored, domains[name], films, limits)
                del rows[kind]["scores"]
    shown = [[kind, str(row["films"]), *(_cell(row.get(column)) for column in COLUMNS)] for kind, row in rows.items()]
    print(table(["", "films", *COLUMNS], shown))
    return finish({"checkpoint": str(options.checkpoint), "step": restored.step, "kinds": rows}, options.json)


def _cell(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.3f}"


if __name__ == "__main__":
    main()
