"""Plans simulated films: patients, films and findings, labels only, thousands per second."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

import numpy as np

from chexjax.data.sources.phantom.anatomy import Array
from chexjax.data.sources.phantom.drawing import ARTIFACTS, PLAN, Film, generator
from chexjax.errors import ConfigError
from chexjax.findings import FINDINGS

# Films with each finding among the 112,120 of ChestX-ray14, in the order of FINDINGS (Data_Entry_2017_v2020.csv).
_REAL_COUNTS: Final = (11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227)
_REAL_FILMS: Final = 112_120
_AP_SHARE: Final = 0.4  # 44,810 of them

# Tetrachoric correlations (in hundredths) of the 14 findings and, last, of an AP view, over 9,868 films of
# ChestX-ray14; the nearest positive definite matrix. Edema goes with Pneumonia (69) and the AP view (53), Emphysema
# with Pneumothorax (41), Effusion with Cardiomegaly (39).
_CORRELATIONS: Final = (
    (100, 10, 34, 18, 10, -4, 28, 5, 36, -3, 13, 1, 0, 4, 20),
    (10, 100, 39, 1, -21, -8, 5, -34, -8, 14, -7, -4, -7, 8, 3),
    (34, 39, 100, 24, 16, 1, 20, 7, 26, 30, 8, -6, 25, 9, 20),
    (18, 1, 24, 100, 14, 16, 33, 1, 17, 38, 7, 10, 4, -6, 31),
    (10, -21, 16, 14, 100, 31, 0, 13, 26, 6, 14, 3, 20, 13, 8),
    (-4, -8, 1, 16, 31, 100, -3, -8, 18, -5, -4, 12, 24, -4, 3),
    (28, 5, 20, 33, 0, -3, 100, -16, 11, 69, 0, -6, 9, 15, 14),
    (5, -34, 7, 1, 13, -8, -16, 100, 7, -5, 41, -5, 9, -18, -9),
    (36, -8, 26, 17, 26, 18, 11, 7, 100, 16, 5, 17, 11, -1, 28),
    (-3, 14, 30, 38, 6, -5, 69, -5, 16, 100, -11, -33, 7, -6, 53),
    (13, -7, 8, 7, 14, -4, 0, 41, 5, -11, 100, -3, 9, 9, 2),
    (1, -4, -6, 10, 3, 12, -6, -5, 17, -33, -3, 100, 16, 8, -23),
    (0, -7, 25, 4, 20, 24, 9, 9, 11, 7, 9, 16, 100, 27, -20),
    (4, 8, 9, -6, 13, -4, 15, -18, -1, -6, 9, 8, 27, 100, -20),
    (20, 3, 20, 31, 8, 3, 14, -9, 28, 53, 2, -23, -20, -20, 100),
)
_SHARED_ILLNESS: Final = 0.2  # see `_plan`; brings "No Finding" back to 42 % where the rare findings are lifted
_PERSISTENCE: Final = 0.5  # share of the variance that all films of a patient have in common


def prevalence(rare_share: float = 0.07) -> dict[str, float]:
    """Share of films with each finding: ChestX-ray14's, raised so that the rarest (Hernia, 0.2 %) has `rare_share`.

    p' = p + lift * (1 - p / max p): the commonest finding keeps its share, and the order stays. With 0 nothing changes.
    """
    shares = np.array(_REAL_COUNTS) / _REAL_FILMS
    relative = 1.0 - shares / shares.max()
    lift = max(0.0, (rare_share - shares.min()) / relative[shares.argmin()])
    return dict(zip(FINDINGS, (shares + lift * relative).tolist(), strict=True))


def plan_films(
    count: int,
    *,
    seed: int = 0,
    rare_share: float = 0.07,
    artifact_share: float = 0.2,
    artifact_kinds: Sequence[str] = ARTIFACTS,
    cue_finding: str | None = None,
    cue_share: float = 0.9,
) -> list[Film]:
    """Draws the table of `count` films, not the films themselves; see `write_films` for the arguments.

    A finding is present where one of several correlated normal variables exceeds its threshold, so that prevalence and
    co-occurrence are ChestX-ray14's; the excess is the severity. Part of each variable is common to a patient's films.
    """
    _check_plan(count, seed, rare_share, artifact_share, artifact_kinds, cue_finding, cue_share)
    normal = NormalDist()
    shares = prevalence(rare_share)
    thresholds = [normal.inv_cdf(1.0 - share) for share in (*shares.values(), _AP_SHARE)]
    mixing = _mixing(rare_share > min(prevalence(0.0).values()))
    films: list[Film] = []
    patient = 0
    while len(films) < count:
        patient += 1
        rng = generator(seed, patient, 0, PLAN)
        sex, age = ("F" if rng.random() < 0.435 else "M"), float(np.clip(rng.normal(47.0, 16.5), 4, 92))
        visits = min(15, int(np.ceil(np.exp(rng.normal(-0.2, 1.7)))))  # half have one film, the mean is 3
        own = mixing @ rng.standard_normal(len(thresholds))
        for visit in range(min(visits, count - len(films))):
            chance = generator(seed, patient, visit + 1, PLAN)
            acute = mixing @ chance.standard_normal(len(thresholds))
            latent = np.sqrt(_PERSISTENCE) * own + np.sqrt(1.0 - _PERSISTENCE) * acute
            severities = {
                finding: 1.0 - (1.0 - normal.cdf(value)) / shares[finding]
                for finding, value, threshold in zip(FINDINGS, latent[:-1].tolist(), thresholds, strict=False)
                if value > threshold
            }
            likely = cue_share if cue_finding in severities else artifact_share
            view = "AP" if latent[-1] > thresholds[-1] else "PA"
            films.append(
                Film(
                    seed=seed,
                    patient=patient,
                    follow_up=visit,
                    age=int(age + 0.3 * visit),
                    sex=sex,
                    view=view,
                    severities=severities,
                    artifacts=_plan_artifacts(chance, likely, view, artifact_kinds),
                )
            )
    return films


def _mixing(lifted: bool) -> Array:
    """The matrix that gives independent normal variables the correlations of the findings and the view.

    If rare findings are raised, only a third of the films would be without a finding; a factor common to all findings
    concentrates them in fewer films.
    """
    correlations = np.array(_CORRELATIONS) / 100.0
    if lifted:
        own = np.full(len(correlations), np.sqrt(1.0 - _SHARED_ILLNESS))
        own[-1] = 1.0
        correlations = own[:, None] * correlations * own
        correlations[:-1, :-1] += _SHARED_ILLNESS
    return np.linalg.cholesky(correlations)


def _plan_artifacts(rng: np.random.Generator, share: float, view: str, kinds: Sequence[str]) -> tuple[str, ...]:
    """One or two kinds on a `share` of films; wires and tubes are commoner in bed. The number of draws is constant."""
    chance, second, *order = rng.random(2 + len(ARTIFACTS))
    if chance >= share or not kinds:
        return ()
    bedside = {"wires": 2.0, "tube": 2.0} if view == "AP" else {}
    score = {kind: order[ARTIFACTS.index(kind)] ** (1.0 / bedside.get(kind, 1.0)) for kind in kinds}
    ranked = sorted(score, key=score.__getitem__, reverse=True)
    return tuple(ranked[: 2 if second < 0.35 else 1])


def _check_plan(
    count: int,
    seed: int,
    rare_share: float,
    artifact_share: float,
    artifact_kinds: Sequence[str],
    cue_finding: str | None,
    cue_share: float,
) -> None:
    if count < 1:
        raise ConfigError(f"count is {count}: at least one film is needed")
    if seed < 0:
        raise ConfigError(f"seed is {seed}: it must be 0 or more")
    for name, share in (("artifact_share", artifact_share), ("cue_share", cue_share)):
        if not 0.0 <= share <= 1.0:
            raise ConfigError(f"{name} is {share}: a share lies between 0 and 1")
    if not 0.0 <= rare_share <= 0.15:
        raise ConfigError(f"rare_share is {rare_share}: it must lie between 0 (real prevalence) and 0.15")
    if unknown := set(artifact_kinds) - set(ARTIFACTS):
        raise ConfigError(f"unknown artefact {', '.join(sorted(unknown))}; there are {', '.join(ARTIFACTS)}")
    if cue_finding is not None and cue_finding not in FINDINGS:
        raise ConfigError(f"unknown finding {cue_finding!r} for the cue; there are {', '.join(FINDINGS)}")
