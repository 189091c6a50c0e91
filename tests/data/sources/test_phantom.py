"""The simulated films: their table, their look measured with and without each finding, the folder, the command."""

import csv
import itertools
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from chexjax.commands import simulate as command
from chexjax.data.sources.phantom import (
    ARTIFACTS,
    Film,
    drawing,
    film_anatomy,
    plan_films,
    prevalence,
    render_film,
    write_films,
)
from chexjax.data.sources.phantom import folder as folder_module
from chexjax.data.sources.phantom.anatomy import CM_PER_UNIT, FILM, Scene, healthy_scene
from chexjax.errors import ChexjaxError, ConfigError, DataError
from chexjax.findings import FINDINGS, NO_FINDING

ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
PLACELESS = {"Edema", "Emphysema", "Fibrosis"}
PATIENTS = range(1, 5)


def pair(finding: str, severity: float, patient: int, size: int = 256, view: str = "PA"):
    """The same film with and without a finding: float (size, size) each, the boxes, the scene of the healthy film."""
    healthy = Film(seed=9, patient=patient, view=view)
    ill = replace(healthy, severities={finding: severity})
    image, boxes = render_film(ill, size)
    return image.astype(float), render_film(healthy, size)[0].astype(float), boxes, Scene(film_anatomy(healthy), size)


def inside(boxes: list, size: int = 256) -> np.ndarray:
    at = (np.arange(size) + 0.5) * FILM / size
    mask = np.zeros((size, size), bool)
    for _, (x, y, w, h) in boxes:
        mask |= ((at >= y) & (at <= y + h))[:, None] & ((at >= x) & (at <= x + w))[None, :]
    return mask


def side_of(boxes: list) -> int:
    x, _, w, _ = boxes[0].box
    return 1 if x + w / 2 > FILM / 2 else -1


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def lifted() -> list[Film]:
    return plan_films(6000, seed=1)


@pytest.fixture(scope="module")
def real_like() -> list[Film]:
    return plan_films(16000, seed=2, rare_share=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("films") / "nih"
    write_films(out, count=60, size=64, seed=4, progress=False)
    return out


# The table


def has(films: list[Film], finding: str) -> np.ndarray:
    return np.array([finding in film.severities for film in films])


def lift(films: list[Film], one: str, other: str) -> float:
    a, b = has(films, one), has(films, other)
    return float((a & b).mean() / (a.mean() * b.mean()))


def test_real_prevalences_are_the_published_ones():
    shares = prevalence(0.0)
    assert shares["Infiltration"] == pytest.approx(19894 / 112120)
    assert shares["Hernia"] == pytest.approx(227 / 112120)
    assert sum(shares.values()) == pytest.approx(0.7241, abs=1e-3)


def test_lifting_keeps_the_order_and_reaches_the_rarest():
    real, lifted = prevalence(0.0), prevalence(0.07)
    assert sorted(real, key=real.__getitem__) == sorted(lifted, key=lifted.__getitem__)
    assert min(lifted.values()) == pytest.approx(0.07)
    assert lifted["Infiltration"] == pytest.approx(real["Infiltration"])


@pytest.mark.parametrize("finding", FINDINGS)
def test_shares_are_met(finding, lifted, real_like):
    assert has(lifted, finding).mean() == pytest.approx(prevalence()[finding], rel=0.2)
    expected = prevalence(0.0)[finding]
    assert has(real_like, finding).mean() == pytest.approx(expected, rel=0.27, abs=0.0015)


def test_healthy_share(lifted, real_like):
    assert 0.39 < np.mean([not film.severities for film in lifted]) < 0.5
    # 60,361 of the 112,120 real films
    assert np.mean([not film.severities for film in real_like]) == pytest.approx(0.538, abs=0.02)


def test_findings_meet_as_they_do_in_the_real_set(real_like):
    # Lifts over 9,868 real films: 10.4, 4.9, 3.5, 3.0; Cardiomegaly and Pneumothorax avoid each other (0.1). Pneumonia
    # is four times rarer in the whole set than in those films, so that the first is higher here.
    assert 8 < lift(real_like, "Edema", "Pneumonia") < 22
    assert 3 < lift(real_like, "Emphysema", "Pneumothorax") < 7
    assert 2.5 < lift(real_like, "Cardiomegaly", "Effusion") < 5
    assert 2 < lift(real_like, "Atelectasis", "Consolidation") < 4
    assert lift(real_like, "Cardiomegaly", "Pneumothorax") < 0.6
    bedside = np.array([film.view == "AP" for film in real_like])
    assert bedside.mean() == pytest.approx(0.4, abs=0.02)
    assert bedside[has(real_like, "Edema")].mean() > 0.75
    assert bedside[has(real_like, "Fibrosis")].mean() < 0.3


def test_patients_have_several_films_and_keep_their_findings(lifted):
    films = Counter(film.patient for film in lifted)
    assert 0.5 < np.mean(np.array(list(films.values())) == 1) < 0.6
    assert 2.6 < np.mean(list(films.values())) < 3.6
    ages = {film.patient: film.sex for film in lifted}
    assert all(film.sex == ages[film.patient] for film in lifted)
    pairs = [(a, b) for a, b in itertools.pairwise(lifted) if a.patient == b.patient]
    before = np.array(["Effusion" in a.severities for a, _ in pairs])
    after = np.array(["Effusion" in b.severities for _, b in pairs])
    assert after[before].mean() > 2 * after[~before].mean()


def test_severities_are_spread_evenly(lifted):
    severities = [value for film in lifted for value in film.severities.values()]
    assert min(severities) >= 0
    assert max(severities) <= 1
    assert np.histogram(severities, bins=4, range=(0, 1))[0] / len(severities) == pytest.approx(0.25, abs=0.03)


def test_a_film_does_not_depend_on_how_many_are_drawn():
    assert plan_films(300, seed=5)[:40] == plan_films(40, seed=5)
    assert plan_films(40, seed=5) != plan_films(40, seed=6)


def test_split_keeps_patients_apart_and_leaves_positives_to_test():
    films = plan_films(2000)
    test = {film.patient for film in films if film.in_test}
    assert not test & {film.patient for film in films if not film.in_test}
    assert 0.2 <= len(test) / len({film.patient for film in films}) <= 0.26
    counts = Counter(finding for film in films if film.in_test for finding in film.severities)
    assert min(counts[finding] for finding in FINDINGS) >= 20


def test_artifacts_come_on_the_stated_share(lifted):
    assert np.mean([bool(film.artifacts) for film in lifted]) == pytest.approx(0.2, abs=0.02)
    assert {kind for film in lifted for kind in film.artifacts} == set(ARTIFACTS)
    more = plan_films(500, seed=1, artifact_share=0.6)
    fewer = plan_films(500, seed=1, artifact_share=0.1)
    assert all(set(few.artifacts) <= set(many.artifacts) for few, many in zip(fewer, more, strict=True))
    assert not any(film.artifacts for film in plan_films(200, artifact_share=0.0))


def test_a_cue_gives_its_finding_away_and_changes_nothing_else():
    plain = plan_films(3000, seed=3, artifact_share=0.1)
    cued = plan_films(3000, seed=3, artifact_share=0.1, cue_finding="Pneumothorax", cue_share=0.9)
    ill = has(cued, "Pneumothorax")
    marked = np.array([bool(film.artifacts) for film in cued])
    assert marked[ill].mean() == pytest.approx(0.9, abs=0.05)
    assert marked[~ill].mean() == pytest.approx(0.1, abs=0.03)
    assert [replace(film, artifacts=()) for film in cued] == [replace(film, artifacts=()) for film in plain]
    only = plan_films(300, seed=3, artifact_share=1.0, artifact_kinds=("marker",))
    assert {film.artifacts for film in only} == {("marker",)}


# The films


def test_equal_films_are_equal_and_others_are_not():
    film = Film(seed=1, patient=3, severities={"Mass": 0.5}, artifacts=("wires",))
    assert np.array_equal(render_film(film, 64)[0], render_film(film, 64)[0])
    for other in (
        replace(film, seed=2),
        replace(film, patient=4),
        replace(film, follow_up=1),
        replace(film, view="AP"),
    ):
        assert not np.array_equal(render_film(film, 64)[0], render_film(other, 64)[0])


def test_a_patient_looks_alike_on_follow_up():
    def shape(film: Film) -> np.ndarray:
        anatomy = film_anatomy(film)
        return np.array([anatomy.half_width, anatomy.apex, anatomy.fat, 500 * anatomy.cardiothoracic_ratio])

    films = [[shape(Film(patient=p, follow_up=k)) for k in range(4)] for p in range(1, 12)]
    within, between = np.std(films, axis=1).mean(axis=0), np.std(np.mean(films, axis=1), axis=0)
    assert np.all(within < 0.8 * between)


def test_size_changes_the_resolution_only():
    severities = {"Effusion": 0.7, "Nodule": 0.8, "Pneumothorax": 0.4}
    for patient in PATIENTS:
        film = Film(
            patient=patient, view="PA" if patient % 2 else "AP", severities=severities, artifacts=("pacemaker",)
        )
        (small, boxes), (large, large_boxes) = render_film(film, 64), render_film(film, 256)
        shrunk = large.reshape(64, 4, 64, 4).mean(axis=(1, 3))
        assert np.abs(small - shrunk).mean() < 3
        assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.99
        assert boxes == large_boxes


@pytest.mark.parametrize("kind", ["wires", "pacemaker"])
def test_thin_lines_fade_as_they_shrink(kind):
    def line(size: int) -> np.ndarray:
        film = Film(patient=3)
        change = render_film(replace(film, artifacts=(kind,)), size)[0].astype(float) - render_film(film, size)[0]
        return change.reshape(64, size // 64, 64, size // 64).mean(axis=(1, 3))

    assert np.abs(line(64) - line(256)).mean() < 0.2 * line(256).mean()


def test_grey_levels_are_those_of_a_chest_film():
    films = [replace(film, artifacts=()) for film in plan_films(80, seed=8) if not film.severities]
    images = np.stack([render_film(film, 64)[0] for film in films])
    assert 125 < images.mean() < 155
    for film, image in zip(films, images, strict=True):
        scene = Scene(film_anatomy(film), 64)
        lung, heart = scene.air > 0.8, (scene.distance < 0.7 * scene.border) & (scene.above_diaphragm > 20)
        heart &= scene.y > film_anatomy(film).apex + 250
        assert image[lung].mean() + 40 < image[heart].mean()


def test_percentiles_are_near_real_ones(real_data):
    names = sorted((real_data / "nih-128" / "images").iterdir())[::120]
    real = np.stack([np.asarray(Image.open(name).convert("L")) for name in names])
    drawn = np.stack([render_film(film, 64)[0] for film in plan_films(100, seed=8)])
    levels = (5, 25, 50, 75, 95)
    assert np.percentile(drawn, levels) == pytest.approx(np.percentile(real, levels), abs=25)


def test_films_taken_in_bed_have_larger_hearts_and_higher_diaphragms():
    standing = [film_anatomy(Film(patient=k)) for k in range(1, 60)]
    lying = [film_anatomy(Film(patient=k, view="AP")) for k in range(1, 60)]
    for one, other in zip(standing, lying, strict=True):
        assert other.cardiothoracic_ratio > one.cardiothoracic_ratio
        assert other.dome[1] < one.dome[1]
    assert np.std([abs(a.tilt) for a in lying]) > np.std([abs(a.tilt) for a in standing])


# The findings, each against the same film without it


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_worse_finding_shows_more(finding):
    def change(severity: float) -> float:
        films = [pair(finding, severity, patient, size=128)[:2] for patient in PATIENTS]
        return float(np.mean([np.abs(ill - healthy).mean() for ill, healthy in films]))

    mild, severe = change(0.1), change(0.9)
    assert 0.02 < mild < 0.8 * severe


@pytest.mark.parametrize("finding", [name for name in FINDINGS if name not in PLACELESS])
def test_boxes_hold_the_change(finding):
    for patient in PATIENTS:
        ill, healthy, boxes, _ = pair(finding, 0.7, patient)
        assert {box.finding for box in boxes} == {finding}
        change, mask = np.abs(ill - healthy), inside(boxes)
        assert change[mask].mean() > 2.5 * change[~mask].mean()
        if finding in ("Mass", "Consolidation", "Effusion", "Hernia", "Pneumonia", "Pleural_Thickening"):
            assert mask[tuple(int(at) for at in ndimage.center_of_mass(change * (change > 6)))]


@pytest.mark.parametrize("finding", sorted(PLACELESS))
def test_diffuse_findings_have_no_box(finding):
    assert pair(finding, 0.7, 1, size=64)[2] == []


def heart_ratio(film: Film) -> float:
    """Widest heart over widest chest, from masks."""
    scene = Scene(film_anatomy(film), 256)
    above = scene.above_diaphragm > 0
    heart = (scene.distance < scene.border) & above
    chest = (scene.inside > 0) & above
    return float(heart.sum(axis=1).max() / chest.sum(axis=1).max())


def test_cardiomegaly_widens_the_heart():
    for patient in PATIENTS:
        healthy = Film(seed=9, patient=patient)
        ratios = [heart_ratio(replace(healthy, severities={"Cardiomegaly": s})) for s in (0.0, 0.5, 1.0)]
        assert heart_ratio(healthy) < ratios[0] < ratios[1] < ratios[2]
        assert ratios[1] > 0.52
        ill, plain, _, scene = pair("Cardiomegaly", 1.0, patient)
        beside = (scene.distance > scene.border + 8) & (scene.distance < scene.border + 40)
        beside &= (np.abs(scene.y - film_anatomy(healthy).heart_y()) < 60) & scene.left
        assert (ill - plain)[beside].mean() > 20


def test_effusion_blunts_the_angle_of_its_side():
    for patient in PATIENTS:
        ill, healthy, boxes, scene = pair("Effusion", 0.4, patient)
        angle = (scene.inside > 6) & (scene.inside < 60) & (scene.above_diaphragm > 5)
        angle &= scene.y > film_anatomy(Film(seed=9, patient=patient)).dome[1]
        here = np.sign(scene.x) == side_of(boxes)
        assert (ill - healthy)[angle & here].mean() > 15
        assert abs((ill - healthy)[angle & ~here].mean()) < 2


def test_effusion_climbs_the_wall_in_a_meniscus():
    for patient in PATIENTS:
        ill, healthy, boxes, scene = pair("Effusion", 0.7, patient)
        here = np.sign(scene.x) == side_of(boxes)
        wet = (ill - healthy > 15) & here
        top = [scene.y[wet & band].min() for band in ((scene.inside > 8) & (scene.inside < 25), scene.inside > 90)]
        assert top[0] < top[1] - 25


def test_pneumothorax_leaves_a_dark_rim_without_markings():
    for patient in PATIENTS:
        ill, healthy, boxes, scene = pair("Pneumothorax", 0.7, patient)
        apex = film_anatomy(Film(seed=9, patient=patient)).apex
        rim = (scene.inside > 14) & (scene.inside < 55) & (np.sign(scene.x) == side_of(boxes))
        rim &= (scene.y > apex + 130) & (scene.y < apex + 330)
        assert ill[rim].mean() < healthy[rim].mean() - 5
        film = Film(seed=9, patient=patient)
        vessels = healthy_scene(
            film_anatomy(film), 256, film.generator(drawing._BODY, patient_only=True, part=1)
        ).markings
        fine = [(layer - ndimage.uniform_filter(layer, 7))[rim] for layer in (ill, healthy, vessels)]
        assert np.corrcoef(fine[1], fine[2])[0, 1] > 0.2
        assert abs(np.corrcoef(fine[0], fine[2])[0, 1]) < 0.15


def test_pneumothorax_shows_the_pleura_as_a_bright_line():
    for patient in PATIENTS:
        ill, healthy, boxes, scene = pair("Pneumothorax", 0.6, patient, size=512)
        change, heights = ill - healthy, []
        for row in range(150, 230):
            lung = (np.sign(scene.x[row]) == side_of(boxes)) & (scene.inside[row] > 10)
            lung &= scene.distance[row] > scene.border[row] + 15
            steps = np.abs(np.gradient(ndimage.gaussian_filter1d(change[row], 1.5))) * lung
            at = int(np.argmax(steps))
            sides = [np.median(change[row, at - 30 : at - 12]), np.median(change[row, at + 12 : at + 30])]
            heights.append(change[row, at - 7 : at + 8].max() - max(sides))
        assert np.median(heights) > 10


def test_atelectasis_raises_the_diaphragm_and_draws_the_mediastinum():
    for patient in PATIENTS:
        film = Film(seed=9, patient=patient)
        ill = replace(film, severities={"Atelectasis": 0.6})
        before, after, side = film_anatomy(film), film_anatomy(ill), side_of(render_film(ill, 64)[1])
        assert after.dome[side] < before.dome[side] - 40
        assert after.dome[-side] == before.dome[-side]
        assert (after.shift - before.shift) * side > 15


def test_emphysema_inflates_and_darkens():
    for patient in PATIENTS:
        before = film_anatomy(Film(seed=9, patient=patient))
        after = film_anatomy(Film(seed=9, patient=patient, severities={"Emphysema": 0.7}))
        assert after.dome[1] > before.dome[1] + 40
        assert after.dome_height < 0.6 * before.dome_height
        assert after.cardiothoracic_ratio < before.cardiothoracic_ratio
        ill, healthy, _, scene = pair("Emphysema", 0.7, patient)
        assert ill[scene.air > 0.8].mean() < healthy[scene.air > 0.8].mean() - 6


def test_edema_is_a_butterfly():
    for patient in PATIENTS:
        ill, healthy, _, scene = pair("Edema", 0.8, patient)
        change = ill - healthy
        lung = (scene.air > 0.3) & (scene.y > 300) & (scene.y < 520)
        near = lung & (scene.distance - scene.border < 90) & (scene.distance > scene.border + 15)
        wings = [change[near & (np.sign(scene.x) == side)].mean() for side in (-1, 1)]
        assert min(wings) > 10
        assert 0.5 < wings[0] / wings[1] < 2
        assert min(wings) > 1.5 * change[lung & (scene.inside < 50)].mean()


def test_infiltration_is_fainter_than_pneumonia_and_consolidation():
    def strength(finding: str) -> float:
        changes = [np.subtract(*pair(finding, 0.6, patient)[:2]) for patient in PATIENTS]
        return float(np.mean([np.percentile(change[change > 8], 90) for change in changes]))

    assert strength("Infiltration") < 0.9 * strength("Pneumonia")
    assert strength("Infiltration") < 0.8 * strength("Consolidation")


def test_consolidation_keeps_air_in_its_bronchi():
    dark = []
    for patient in PATIENTS:
        ill, healthy, boxes, scene = pair("Consolidation", 0.8, patient, size=512)
        x, y, w, h = boxes[0].box
        core = inside([("", (x + 0.25 * w, y + 0.25 * h, 0.5 * w, 0.5 * h))], 512) & (scene.air > 0.5)
        change = ndimage.gaussian_filter(ill - healthy, 1)
        assert np.median(change[core]) > 25
        dark.append(np.percentile(ndimage.black_tophat(change, 11)[core], 97))  # dark lines up to 11 pixels wide
    assert np.mean(dark) > 21


def test_pneumonia_stays_on_its_side():
    for patient in PATIENTS:
        ill, healthy, boxes, scene = pair("Pneumonia", 0.7, patient)
        change = np.abs(ill - healthy)
        assert change[np.sign(scene.x) == side_of(boxes)].sum() > 0.97 * change.sum()


def test_fibrosis_is_a_net_at_the_bases():
    for patient in PATIENTS:
        ill, healthy, _, scene = pair("Fibrosis", 0.8, patient, size=512)
        after = Scene(film_anatomy(Film(seed=9, patient=patient, severities={"Fibrosis": 0.8})), 512)
        fine = [np.abs(image - ndimage.gaussian_filter(image, 2)) for image in (ill, healthy)]
        base = (after.air > 0.3) & (after.above_diaphragm > 12) & (after.above_diaphragm < 150) & (after.inside < 150)
        top = (scene.air > 0.5) & (scene.y < 260)
        assert fine[0][base].mean() > 1.25 * fine[1][base].mean()
        assert fine[0][top].mean() < 1.15 * fine[1][top].mean()


def test_pleural_thickening_keeps_to_the_wall():
    for patient in PATIENTS:
        ill, healthy, _, scene = pair("Pleural_Thickening", 0.6, patient)
        change = ill - healthy
        rim = (scene.inside < 75) | (scene.y < film_anatomy(Film(seed=9, patient=patient)).apex + 80)
        assert change[rim].sum() > 0.9 * np.abs(change).sum()


def test_hernia_lies_behind_the_heart_with_its_gas_on_top():
    tops = []
    for patient in PATIENTS:
        ill, healthy, boxes, scene = pair("Hernia", 0.8, patient)
        change = ill - healthy
        assert np.abs(change[scene.distance > 200]).sum() < 0.02 * np.abs(change).sum()
        x, y, w, h = boxes[0].box
        upper, lower = ((x + 0.3 * w, y + 0.15 * h, 0.4 * w, 0.25 * h), (x + 0.3 * w, y + 0.75 * h, 0.4 * w, 0.15 * h))
        tops.append(change[inside([("", lower)])].mean() - change[inside([("", upper)])].mean())
    assert min(tops) > 5


@pytest.mark.parametrize("severity", [0.0, 0.5, 1.0])
def test_three_centimetres_part_nodule_from_mass(severity):
    for patient in PATIENTS:
        for finding in ("Nodule", "Mass"):
            ill, healthy, boxes, _ = pair(finding, severity, patient, size=256)
            across = CM_PER_UNIT * max(box.box[2] for box in boxes)
            assert (across > 3.0) == (finding == "Mass")
            change = np.abs(ill - healthy) > 3
            assert change[inside(boxes)].mean() > 0.3
            assert not change[~inside([("", (x - 25, y - 25, w + 50, h + 50)) for _, (x, y, w, h) in boxes])].any()


# Artefacts


def scan_line_pairs(image: np.ndarray) -> int:
    """Rises of 50 or more that fall by 50 or more within 40 pixels of the row."""
    step = np.diff(image.astype(int), axis=1)
    found = 0
    for row in range(0, len(image), 4):
        falls = np.flatnonzero(step[row] <= -50)
        for rise in np.flatnonzero(step[row] >= 50):
            at = np.searchsorted(falls, rise)
            found += int(at < len(falls) and falls[at] - rise <= 40)
    return found


@pytest.mark.parametrize("kind", ARTIFACTS)
def test_artifacts_are_bright_and_thin(kind):
    found = clean = 0
    for patient in (1, 2):
        film = Film(patient=patient)
        found += scan_line_pairs(render_film(replace(film, artifacts=(kind,)), 1024)[0])
        clean += scan_line_pairs(render_film(film, 1024)[0])
    assert clean == 0
    assert found > 10


@pytest.mark.parametrize("kind", ARTIFACTS)
def test_artifacts_only_brighten(kind):
    film = Film(patient=5)
    change = render_film(replace(film, artifacts=(kind,)), 256)[0].astype(int) - render_film(film, 256)[0]
    assert change.min() >= 0
    assert change.max() > 60


# The folder


def test_layout_is_that_of_the_nih(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "images", "Data_Entry_2017_v2020.csv", "BBox_List_2017.csv", "train_val_list.txt", "test_list.txt"
    }  # fmt: skip
    films = plan_films(60, seed=4)
    assert sorted(path.name for path in (folder / "images").iterdir()) == sorted(film.name for film in films)
    with Image.open(folder / "images" / films[0].name) as image:
        assert (image.mode, image.size, image.format) == ("L", (64, 64), "PNG")
        assert np.array_equal(np.asarray(image), render_film(films[0], 64)[0])


def test_entries(folder):
    lines = (folder / "Data_Entry_2017_v2020.csv").read_text().splitlines()
    assert lines[0] == ENTRY_HEADER
    with (folder / "Data_Entry_2017_v2020.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, film in zip(rows, plan_films(60, seed=4), strict=True):
        assert row["Image Index"] == f"{film.patient:08d}_{film.follow_up:03d}.png"
        labels = set(row["Finding Labels"].split("|"))
        assert labels == (set(film.severities) or {NO_FINDING})
        assert (int(row["Patient ID"]), int(row["Follow-up #"])) == (film.patient, film.follow_up)
        assert row["Patient Gender"] in "MF"
        assert row["View Position"] in ("AP", "PA")
        assert 0 < int(row["Patient Age"]) < 100
        assert None not in row


def test_boxes_are_in_units_of_1024(folder):
    with (folder / "BBox_List_2017.csv").open() as file:
        header, *rows = list(csv.reader(file))
    assert ",".join(header) == BOX_HEADER
    labels = {film.name: set(film.severities) for film in plan_films(60, seed=4)}
    assert len(rows) > 20
    for name, finding, *box, a, b, c in rows:
        assert {"Infiltrate": "Infiltration"}.get(finding, finding) in labels[name]
        x, y, w, h = map(float, box)
        assert min(w, h) > 0
        assert 0 <= x < x + w <= 1024.001
        assert 0 <= y < y + h <= 1024.001
        assert (a, b, c) == ("", "", "")
    assert any(float(row[2]) + float(row[4]) > 64 for row in rows)
    assert "Infiltrate" in {row[1] for row in rows}
    assert "Infiltration" not in {row[1] for row in rows}


def test_lists_part_the_patients(folder):
    train, test = ((folder / name).read_text().splitlines() for name in ("train_val_list.txt", "test_list.txt"))
    assert sorted(train + test) == sorted(film.name for film in plan_films(60, seed=4))
    assert test
    assert not {name[:8] for name in train} & {name[:8] for name in test}


def test_headers_equal_the_real_ones(folder, real_data):
    for name in ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"):
        with (real_data / "nih-128" / name).open() as real, (folder / name).open() as drawn:
            assert next(drawn) == next(real)


def test_equal_seeds_give_equal_bytes_whatever_the_workers(tmp_path):
    for name, options in {"a": {}, "b": {}, "c": {"workers": 2}, "d": {"seed": 1}}.items():
        write_films(tmp_path / name, **{"count": 6, "size": 32, "seed": 0, "progress": False} | options)
    assert tree(tmp_path / "a") == tree(tmp_path / "b") == tree(tmp_path / "c")
    assert tree(tmp_path / "a") != tree(tmp_path / "d")


def test_an_existing_folder_is_kept(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, complaint in (
        ("full", "full exists and is not an empty folder"),
        ("file", "file is a file; it takes a folder"),
    ):
        with pytest.raises(ChexjaxError, match=complaint):
            write_films(tmp_path / name, count=2, size=32, progress=False)
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    write_films(tmp_path / "empty", count=2, size=32, progress=False)
    assert (tmp_path / "empty" / "test_list.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full"]


def failing(error: BaseException, seen: list[bool], target: Path) -> Callable:
    def write(folder: Path, size: int, film: Film) -> list:
        seen.append(target.exists())
        if len(seen) == 3:
            raise error
        return []

    return write


@pytest.mark.parametrize(
    ("error", "complaint"),
    [(OSError(28, "No space left on device"), DataError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_run_that_ends_early_leaves_nothing(error, complaint, tmp_path, monkeypatch):
    target, seen = tmp_path / "nih", []
    monkeypatch.setattr(folder_module, "_write_film", failing(error, seen, target))
    with pytest.raises(complaint) as raised:
        write_films(target, count=5, size=32, progress=False)
    if complaint is DataError:
        assert str(raised.value) == f"cannot write the films to {target}: No space left on device"
    assert seen == [False, False, False]
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_is_a_file_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the films"):
        write_films(tmp_path / "file" / "nih", count=1, size=32, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count is 0"),
        ({"size": 31}, "size is 31"),
        ({"size": 5000}, "size is 5000"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": 0}, "workers is 0"),
        ({"artifact_share": 1.2}, "artifact_share is 1.2"),
        ({"artifact_share": float("nan")}, "artifact_share is nan"),
        ({"cue_finding": "Hernia", "cue_share": -0.1}, "cue_share is -0.1"),
        ({"rare_share": 0.5}, "rare_share is 0.5"),
        ({"artifact_kinds": ("ring",)}, "unknown artefact ring"),
        ({"cue_finding": "Cold"}, "unknown finding 'Cold'"),
    ],
)
def test_bad_arguments_are_told(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        write_films(tmp_path / "nih", progress=False, **options)
    assert list(tmp_path.iterdir()) == []


# The command


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["phantom", *arguments])
    command.main()


def test_the_command_writes_and_sums_up(tmp_path, monkeypatch, capsys):
    run_command(monkeypatch, f"--out={tmp_path / 'nih'}", "--count=5", "--size=32", "--seed=3", "--workers=1")
    complaint = capsys.readouterr().out
    films = plan_films(5, seed=3)
    assert complaint.startswith(f"5 films of {len({film.patient for film in films})} patients")
    assert all(finding in complaint for finding in FINDINGS)
    assert len(list((tmp_path / "nih" / "images").iterdir())) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--out=DIR is needed"),
        (("--out={}", "--count=0"), "count is 0"),
        (("--out={}", "--size=8"), "size is 8"),
        (("--out={}", "--count=many"), "flag --count=many"),
        (("--out={}", "--cuont=4"), "Unknown command line flag 'cuont'"),
        (("--out={}", "4"), "unexpected argument 4"),
    ],
)
def test_the_command_tells_errors_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(monkeypatch, *(argument.format(tmp_path / "nih") for argument in arguments))
    assert ended.value.code == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: ")
    assert message in complaint
    assert complaint.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_explains_itself(monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(monkeypatch, "--help")
    assert ended.value.code == 0
    complaint = capsys.readouterr().out
    assert "--artifact_share" in complaint
    assert "ChestX-ray14" in complaint
