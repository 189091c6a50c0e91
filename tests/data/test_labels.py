"""Names of findings across data sets, and what uncertain means."""

from dataclasses import dataclass

import numpy as np
import pytest

from chexjax.data.labels import (
    SYNONYMS,
    WIDE_LABELS,
    Uncertain,
    align,
    choose_findings,
    common_findings,
    describe_mapping,
    highest,
    match_findings,
    outputs_of,
    preferred_name,
    reason_for,
)
from chexjax.errors import ConfigError, DataError
from chexjax.findings import FINDINGS

NAN = np.nan


@dataclass
class Told:
    findings: tuple[str, ...]
    labels: np.ndarray
    source: str = "ours"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{row}.png" for row in range(len(self.labels)))


def labelled(findings: str, *rows: list[float]) -> Told:
    return Told(tuple(findings.split(",")), np.array(rows, np.float32))


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("Pleural Effusion", "Effusion"),
        ("pleural effusion", "Effusion"),
        ("Pleural thickening", "Pleural_Thickening"),
        ("Infiltrate", "Infiltration"),
        ("Atelectases", "Atelectasis"),
        ("Pulmonary fibrosis", "Fibrosis"),
        ("opacity", "Lung Opacity"),
        ("Cardiomegaly", "Cardiomegaly"),
        ("Gallstone", "Gallstone"),
    ],
)
def test_preferred_names(name: str, finding: str) -> None:
    assert preferred_name(name) == finding


def test_every_synonym_says_where_it_comes_from_and_is_there_once() -> None:
    assert all(len(entry.origin) > 3 for entry in SYNONYMS)
    pairs = [(entry.name.lower(), entry.finding.lower()) for entry in SYNONYMS]
    assert len(set(pairs)) == len(pairs)


def test_no_two_of_the_nihs_findings_are_one() -> None:
    assert match_findings(FINDINGS, FINDINGS) == {finding: (finding,) for finding in FINDINGS}


def test_a_kind_counts_for_the_wider_term_and_never_the_other_way() -> None:
    assert match_findings(["laminar atelectasis"], ["Atelectasis"]) == {"Atelectasis": ("laminar atelectasis",)}
    assert match_findings(["Atelectasis"], ["laminar atelectasis"]) == {"laminar atelectasis": ()}
    assert match_findings(["Nodule", "Mass"], ["Lung Lesion"]) == {"Lung Lesion": ("Nodule", "Mass")}
    assert match_findings(["subcutaneous emphysema"], ["Emphysema"]) == {"Emphysema": ()}  # it merely contains the word


def test_labels_follow_the_findings_of_the_run() -> None:
    own = labelled("Pleural Effusion,Edema,Nodule,Mass", [1, 0, 0, NAN], [0, 0.5, 1, 0], [NAN, 1, 0, 0])
    labels = align(own, ("Nodule/Mass", "Hernia", "Effusion", "Edema"))
    assert labels.dtype == np.float32
    expected = [[NAN, NAN, 1, 0], [1, NAN, 0, 0.5], [0, NAN, NAN, 1]]  # Hernia: not labelled
    np.testing.assert_array_equal(labels, np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("policy", "edema", "mass"),
    [
        ("ignore", NAN, NAN),
        ("zero", 0, 0),
        ("one", 1, 1),
        ("0.25", 0.25, 0.25),
        (0.25, 0.25, 0.25),
        ("zero,Edema=one", 1, 0),
        ("Mass=0.3,edema=ignore", NAN, 0.3),
        ({"": "zero", "Edema": 0.75}, 0.75, 0),
    ],
)
def test_what_uncertain_means(policy: object, edema: float, mass: float) -> None:
    uncertain = Uncertain.parse(policy)  # type: ignore[arg-type]
    labels = align(labelled("Edema,Mass", [-1, -1], [1, 0]), ("Edema", "Mass"), uncertain)
    np.testing.assert_array_equal(labels, np.array([[edema, mass], [1, 0]], np.float32))
    again = Uncertain.parse(str(uncertain))
    np.testing.assert_array_equal([again.value("Edema"), again.value("Mass")], [edema, mass])


def test_a_policy_is_written_as_it_is_read() -> None:
    for policy in ("ignore", "zero", "one", "0.25", "zero,edema=one"):
        assert str(Uncertain.parse(policy)) == policy
    assert Uncertain.parse("1").default == 1.0  # the ends are policies, too
    assert Uncertain.parse("0").default == 0.0


def test_a_policy_by_another_name_of_the_finding() -> None:
    uncertain = Uncertain.parse("Pleural Effusion=one")
    assert (uncertain.value("Effusion"), uncertain.value("Edema")) == (1.0, None)


def test_uncertain_without_a_policy_is_refused() -> None:
    own = labelled("Edema,Pleural Effusion", [0, 0], [1, -1])
    with pytest.raises(DataError, match=r"ours: 1 labels of 'Pleural Effusion' are uncertain.*1\.png\n.*uncertain=ign"):
        align(own, ("Effusion",))
    np.testing.assert_array_equal(align(own, ("Edema",)), [[0], [1]])  # nobody asks what is uncertain


@pytest.mark.parametrize("policy", ["maybe", "1.5", "-1", "nan", "Edema=", "zero,one", "Edema=one,edema=zero"])
def test_policies_that_are_none(policy: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.uncertain"):
        Uncertain.parse(policy)


def test_findings_that_nobody_chose() -> None:
    assert choose_findings([["Pleural Effusion", "Cyst"]]) == ("Pleural Effusion", "Cyst")
    assert choose_findings([["Pleural Effusion", "Cyst"], ["Effusion", "Hernia"]]) == ("Effusion", "Cyst", "Hernia")


def test_a_wide_label_is_evaluated_where_no_output_means_it() -> None:
    nih = common_findings(["Nodule/Mass", "Pleural effusion", "ILD"], FINDINGS)
    assert {name: entry.outputs for name, entry in nih.items()} == {
        "Effusion": ("Effusion",),
        "Nodule/Mass": ("Nodule", "Mass"),
    }
    assert list(common_findings(["Lung Opacity"], FINDINGS)) == ["Lung Opacity"]  # the RSNA's
    # A part of it alone, or an output that means it, does not count so; nor do the parts as a source's labels.
    assert common_findings(["Nodule/Mass"], ["Nodule", "Hernia"]) == {}
    assert common_findings(["Nodule/Mass"], ["Nodule", "Mass", "Nodule or mass"]).keys() == {"Nodule or mass"}
    assert common_findings(["Nodule", "Mass"], ["Nodule", "Mass"]).keys() == {"Nodule", "Mass"}
    assert common_findings(["Lung Lesion"], ["nodule_/mass", "Nodule", "Mass"])["Lung Lesion"].outputs == (
        "nodule_/mass",
    )


def test_each_wide_label_names_findings_by_their_preferred_names() -> None:
    for wide in WIDE_LABELS:
        assert [preferred_name(name) for name in (wide.name, *wide.outputs)] == [wide.name, *wide.outputs]
        assert wide.origin


def test_the_highest_of_the_outputs() -> None:
    outputs = ("Mass", "Edema", "Nodule")
    columns = outputs_of(("Edema", "Nodule/Mass"), outputs)
    values = np.random.default_rng(0).random((7, 3))
    expected = [[row[1], max(row[0], row[2])] for row in values]
    np.testing.assert_array_equal(highest(values, columns), expected)
    for shape in ((3,), (2, 7, 3)):
        more = np.resize(values, shape)
        np.testing.assert_array_equal(highest(more, columns)[..., 1], np.maximum(more[..., 0], more[..., 2]))


def test_a_kind_of_a_finding_keeps_its_own_name() -> None:
    """ "Pleural Effusions" are an Effusion and nothing else; a right-sided one is a finding that a run may choose."""
    same = {
        "Pleural Effusion", "Pleural Effusions", "Infiltrate", "Infiltrates", "Atelectases", "Pulmonary Atelectasis",
        "Pulmonary Edema", "Edemas", "Pulmonary Emphysema", "Emphysemas", "Pulmonary Fibrosis", "Pulmonary Fibroses",
        "Fibroses", "Pulmonary Mass", "Nodule or mass", "Opacity", "Fractures, Bone",
    }  # fmt: skip
    for entry in SYNONYMS:
        expected = entry.finding if entry.name in same else entry.name
        assert preferred_name(entry.name) == preferred_name(expected), entry
        assert (preferred_name(entry.name) == entry.name) == (entry.name not in same), entry


def test_the_reason_is_the_entrys_in_either_direction() -> None:
    origins = {entry.name: entry.origin for entry in SYNONYMS}
    assert reason_for("Infiltrates", "Infiltration") == origins["Infiltrates"]
    assert reason_for("Infiltration", "infiltrates") == origins["Infiltrates"]
    assert reason_for("INFILTRATION", "Infiltration") == ""


def test_the_mapping_is_told_with_its_reasons() -> None:
    text = describe_mapping({"padchest": ["laminar atelectasis", "scoliosis"]}, ("Atelectasis", "Hernia"))
    assert "padchest: laminar atelectasis -> Atelectasis (a kind of it by PadChest's tree" in text
    assert "padchest: does not label Hernia" in text
    assert "padchest: not used are 1: scoliosis" in text
