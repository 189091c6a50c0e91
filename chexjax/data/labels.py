"""Names of findings across data sets, and what "uncertain" means.

Two names mean one finding where they differ in case, `_`, `-` and spaces alone ("Pleural_Thickening", "Pleural
thickening"), or where `SYNONYMS` says so, with its reason. A narrower term ("laminar atelectasis") counts for the wider
one ("Atelectasis"), never the other way. A film has a finding where one of its terms is present; it lacks it where all
are absent; else it is not known. Names that merely contain one another are not matched.

A label that is wider than each output of a network (VinDr-CXR's "Nodule/Mass", for outputs "Nodule" and "Mass") is
evaluated by the highest of the outputs in `WIDE_LABELS`. No training label is made that way.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final, Protocol

import numpy as np

from chexjax.errors import ConfigError, DataError, first_ten, printable
from chexjax.findings import FINDINGS, spelled

UNCERTAIN: Final = -1.0  # in the labels of a source, until `Uncertain` says what it means


@dataclass(frozen=True)
class Synonym:
    """`name` means `finding` or, where it is `narrower`, a kind of it; `origin` says who uses it so."""

    name: str
    finding: str
    origin: str
    narrower: bool = False


@dataclass(frozen=True)
class Evaluable:
    """A label on which a network with all of `outputs` can be evaluated, by the highest of them.

    `origin` says why these stand for it; empty where the label is itself an output.
    """

    name: str
    outputs: tuple[str, ...]
    origin: str = ""

    def __str__(self) -> str:
        outputs = ", ".join(self.outputs)
        return f"{self.name} is evaluated by the highest of the outputs {outputs} ({self.origin})"


class Labelled(Protocol):
    """What `align` reads of `sources.entries.Entries`."""

    @property
    def source(self) -> str: ...
    @property
    def findings(self) -> tuple[str, ...]: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> np.ndarray: ...


_MESH: Final = "MeSH heading or entry term, as Open-i has it"
_PADCHEST: Final = "a kind of it by PadChest's tree of terms (Bustos et al. 2020)"
_PADCHEST_TERM: Final = "PadChest's term for it (Bustos et al. 2020)"
_OPENI: Final = "a term of the Open-i reports, a kind of it by its words"
_DEVICE: Final = (
    "a device by PadChest's terms; CheXpert's labeller counts lines, tubes and pacemakers (Irvin et al. 2019)"
)
_LESION: Final = "CheXpert's labeller counts nodules and masses (Irvin et al. 2019)"

SYNONYMS: Final = (
    Synonym("Pleural Effusion", "Effusion", "CheXpert, MIMIC-CXR, VinDr-CXR, PadChest, MeSH; the NIH means the pleura"),
    Synonym("Pleural Effusions", "Effusion", _MESH),
    Synonym("Bilateral Pleural Effusion", "Effusion", _OPENI, narrower=True),
    Synonym("Right-sided Pleural Effusion", "Effusion", _OPENI, narrower=True),
    Synonym("Left-sided Pleural Effusion", "Effusion", _OPENI, narrower=True),
    Synonym("Loculated Pleural Effusion", "Effusion", _PADCHEST, narrower=True),
    Synonym("Loculated Fissural Effusion", "Effusion", _PADCHEST, narrower=True),
    Synonym("Hydropneumothorax", "Effusion", "fluid and air in the pleural space, by definition", narrower=True),
    Synonym("Hydropneumothorax", "Pneumothorax", "fluid and air in the pleural space, by definition", narrower=True),
    Synonym("Infiltrate", "Infiltration", "the NIH's BBox_List_2017.csv writes so; MeSH"),
    Synonym("Infiltrates", "Infiltration", _PADCHEST_TERM),
    Synonym("Atelectases", "Atelectasis", _MESH),
    Synonym("Pulmonary Atelectasis", "Atelectasis", _MESH),
    Synonym("Focal Atelectasis", "Atelectasis", _OPENI, narrower=True),
    Synonym("Laminar Atelectasis", "Atelectasis", _PADCHEST, narrower=True),
    Synonym("Lobar Atelectasis", "Atelectasis", _PADCHEST, narrower=True),
    Synonym("Segmental Atelectasis", "Atelectasis", _PADCHEST, narrower=True),
    Synonym("Total Atelectasis", "Atelectasis", _PADCHEST, narrower=True),
    Synonym("Round Atelectasis", "Atelectasis", _PADCHEST, narrower=True),
    Synonym("Atelectasis Basal", "Atelectasis", _PADCHEST, narrower=True),
    Synonym("Pulmonary Edema", "Edema", _PADCHEST_TERM),
    Synonym("Edemas", "Edema", _MESH),
    Synonym("Interstitial Pulmonary Edema", "Edema", _OPENI, narrower=True),
    Synonym("Pulmonary Emphysema", "Emphysema", _MESH),
    Synonym("Emphysemas", "Emphysema", _MESH),
    Synonym("Pulmonary Fibrosis", "Fibrosis", "VinDr-CXR's and PadChest's term; the NIH means the lung"),
    Synonym("Pulmonary Fibroses", "Fibrosis", _MESH),
    Synonym("Fibroses", "Fibrosis", _MESH),
    Synonym("Pulmonary Mass", "Mass", _PADCHEST_TERM),
    Synonym("Multiple Nodules", "Nodule", _PADCHEST, narrower=True),
    Synonym("Nodule or mass", "Nodule/Mass", "Google's readers of NIH films (Majkowska et al. 2019); VinDr-CXR's name"),
    Synonym("Nodule", "Nodule/Mass", "a part of VinDr-CXR's class", narrower=True),
    Synonym("Mass", "Nodule/Mass", "a part of VinDr-CXR's class", narrower=True),
    Synonym("Nodule", "Lung Lesion", _LESION, narrower=True),
    Synonym("Mass", "Lung Lesion", _LESION, narrower=True),
    Synonym("Nodule/Mass", "Lung Lesion", _LESION, narrower=True),
    Synonym("Atypical Pneumonia", "Pneumonia", _PADCHEST, narrower=True),
    Synonym("Right Lower Lobe Pneumonia", "Pneumonia", _OPENI, narrower=True),
    Synonym("Right Upper Lobe Pneumonia", "Pneumonia", _OPENI, narrower=True),
    Synonym("Left Lower Lobe Pneumonia", "Pneumonia", _OPENI, narrower=True),
    Synonym("Apical Pleural Thickening", "Pleural_Thickening", _PADCHEST, narrower=True),
    Synonym("Calcified Pleural Thickening", "Pleural_Thickening", _PADCHEST, narrower=True),
    Synonym("Hiatal Hernia", "Hernia", "most of the NIH's are hiatal; PadChest, Open-i", narrower=True),
    Synonym("Hernia, Hiatal", "Hernia", _MESH, narrower=True),
    Synonym("Large Hiatal Hernia", "Hernia", _OPENI, narrower=True),
    Synonym("Opacity", "Lung Opacity", "Open-i's term, on chest films; torchxrayvision reads it so"),
    Synonym("Rib Fracture", "Fracture", "VinDr-CXR, PadChest, Open-i: a bone's fracture", narrower=True),
    Synonym("Rib Fractures", "Fracture", _OPENI, narrower=True),
    Synonym("Fractures, Bone", "Fracture", _MESH),
    Synonym("Spinal Fractures", "Fracture", _OPENI, narrower=True),
    Synonym("Clavicle Fracture", "Fracture", "VinDr-CXR, PadChest: a bone's fracture", narrower=True),
    Synonym("Humeral Fracture", "Fracture", _PADCHEST, narrower=True),
    Synonym("Vertebral Fracture", "Fracture", _PADCHEST, narrower=True),
    Synonym("Callus Rib Fracture", "Fracture", _PADCHEST, narrower=True),
    *(
        Synonym(name, "Support Devices", _DEVICE, narrower=True)
        for name in (
            "Pacemaker",
            "Dual Chamber Device",
            "Single Chamber Device",
            "Electrical Device",
            "NSG Tube",
            "Endotracheal Tube",
            "Tracheostomy Tube",
            "Chest Drain Tube",
            "Central Venous Catheter",
            "Central Venous Catheter via Jugular Vein",
            "Central Venous Catheter via Subclavian Vein",
            "Central Venous Catheter via Umbilical Vein",
            "Reservoir Central Venous Catheter",
        )
    ),
)


_OPACITIES: Final = ("Infiltration", "Consolidation", "Pneumonia")

# Of several entries of one name, the first whose outputs the network has counts.
WIDE_LABELS: Final = (
    Evaluable("Nodule/Mass", ("Nodule", "Mass"), "VinDr-CXR and Google's readers have one class for both"),
    Evaluable("Lung Lesion", ("Nodule/Mass",), _LESION),
    Evaluable("Lung Lesion", ("Nodule", "Mass"), _LESION),
    Evaluable("Lung Opacity", _OPACITIES, "the labels from which the RSNA's films were drawn (Shih et al. 2019)"),
    Evaluable("Airspace opacity", _OPACITIES, "as for Lung Opacity; Google's readers (Majkowska et al. 2019)"),
)


def preferred_name(name: str) -> str:
    """What this house calls a finding: its synonym's, the NIH's spelling, or the name itself."""
    finding = next((entry.finding for entry in _meanings(spelled(name)) if not entry.narrower), name)
    return next((known for known in FINDINGS if spelled(known) == spelled(finding)), finding)


@cache
def _meanings(name: str) -> tuple[Synonym, ...]:
    return tuple(entry for entry in SYNONYMS if spelled(entry.name) == name)


def match_findings(own: Sequence[str], wanted: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """For each finding that is wanted, the names among `own` that mean it or a kind of it; in their order."""
    meant = {spelled(preferred_name(finding)): finding for finding in wanted}
    found: dict[str, tuple[str, ...]] = dict.fromkeys(wanted, ())
    for name in own:
        for key in _all_meanings(spelled(name)):
            if key in meant:
                found[meant[key]] += (name,)
    return found


@cache
def _all_meanings(name: str) -> tuple[str, ...]:
    """Every finding that a name means or is a kind of, by its spelling."""
    found = {name: None}
    for known in (open_names := [name]):
        for entry in _meanings(known):
            meaning = spelled(preferred_name(entry.finding))
            if meaning not in found:
                found[meaning] = None
                open_names.append(meaning)
    return tuple(found)


def reason_for(own: str, finding: str) -> str:
    """Why a name counts for a finding, as `SYNONYMS` has it; empty where it is but another spelling."""
    if spelled(own) == spelled(finding):
        return ""
    names = {spelled(own), spelled(preferred_name(own))}
    goal = {spelled(finding), spelled(preferred_name(finding))}
    entries = [entry for entry in SYNONYMS if spelled(entry.name) in names and spelled(entry.finding) in goal]
    entries += [entry for entry in SYNONYMS if spelled(entry.name) in goal and spelled(entry.finding) in names]
    return entries[0].origin if entries else "the same finding by its synonyms"


# What outputs can be evaluated on


def evaluable(outputs: Sequence[str]) -> dict[str, Evaluable]:
    """Every label that a network can be evaluated on, by name: its outputs, then the wide labels that no output means.

    `Evaluable.outputs` are spelled as in `outputs`.
    """
    found = {output: Evaluable(output, (output,)) for output in outputs}
    output_of = {spelled(preferred_name(output)): output for output in outputs}
    for wide in WIDE_LABELS:
        parts = [output_of[spelled(part)] for part in wide.outputs if spelled(part) in output_of]
        if len(parts) == len(wide.outputs) and spelled(wide.name) not in output_of:
            found.setdefault(wide.name, replace(wide, outputs=tuple(parts)))
    return found


def common_findings(own: Sequence[str], outputs: Sequence[str]) -> dict[str, Evaluable]:
    """The part of `evaluable(outputs)` that a source with the names `own` labels.

    A wide label is among them only if the source has it as such.
    """
    meanings = {spelled(preferred_name(name)) for name in own}
    labelled = match_findings(own, outputs)
    return {
        name: entry
        for name, entry in evaluable(outputs).items()
        if labelled.get(name) or (entry.origin and spelled(name) in meanings)
    }


def outputs_of(findings: Sequence[str], outputs: Sequence[str]) -> list[list[int]]:
    """For each finding, a key of `evaluable(outputs)`, the indices of the outputs of which the highest counts."""
    entries = evaluable(outputs)
    return [[outputs.index(part) for part in entries[finding].outputs] for finding in findings]


def highest(values: np.ndarray, columns: Sequence[Sequence[int]]) -> np.ndarray:
    """For each finding the highest of its columns: (..., outputs) -> (..., findings)."""
    return np.stack([values[..., list(own)].max(axis=-1) for own in columns], axis=-1)


# What "uncertain" means


@dataclass(frozen=True)
class Uncertain:
    """What a label of -1 becomes: NaN (ignored), 0, 1 or a number between; None where nobody has said it.

    `findings` has what is said of single ones, by their spelling.
    """

    default: float | None = None
    findings: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, policy: "str | float | Mapping[str, str | float]") -> "Uncertain":
        """From `ignore`, `zero`, `one`, a number, or `zero,Edema=one,Atelectasis=ignore`; or the same as a mapping.

        The part without a finding's name (in a mapping: of the name "") is for all others.

        Raises:
          ConfigError: a part is none of these.
        """
        if isinstance(policy, Mapping):
            parts = [(str(name), str(value)) for name, value in policy.items()]
        else:
            pieces = [piece.strip() for piece in str(policy).split(",") if piece.strip()]
            parts = [(name.strip(), value) for name, _, value in (piece.rpartition("=") for piece in pieces)]
        values = {spelled(name): _policy_value(value) for name, value in parts}
        if len(values) < len(parts):
            raise ConfigError(f"data.uncertain says two things of one finding: {printable(policy)[:200]!r}")
        return cls(values.pop("", None), values)

    def value(self, finding: str) -> float | None:
        """What it says of a finding."""
        for name in (spelled(finding), spelled(preferred_name(finding))):
            if name in self.findings:
                return self.findings[name]
        same = {spelled(preferred_name(name)): value for name, value in self.findings.items()}
        return same.get(spelled(preferred_name(finding)), self.default)

    def __str__(self) -> str:
        parts = [] if self.default is None else [("", self.default), *self.findings.items()]
        parts = parts or list(self.findings.items())
        return ",".join(f"{name}={_policy_name(value)}".removeprefix("=") for name, value in parts)


_POLICIES: Final = {"ignore": np.nan, "zero": 0.0, "one": 1.0}


def _policy_value(text: str) -> float:
    text = text.strip().lower()
    try:
        value = _POLICIES[text] if text in _POLICIES else float(text)
    except ValueError:
        value = -1.0
    if text not in _POLICIES and not 0.0 <= value <= 1.0:
        raise ConfigError(
            f"data.uncertain {printable(text)[:80]!r} is none of ignore, zero, one and a number from 0 to 1\n"
            "single findings are written Edema=one, with commas between"
        )
    return float(value)


def _policy_name(value: float) -> str:
    return "ignore" if np.isnan(value) else {0.0: "zero", 1.0: "one"}.get(value, f"{value:g}")


# Labels by the findings of a run


def align(entries: Labelled, findings: Sequence[str], uncertain: Uncertain | None = None) -> np.ndarray:
    """The labels of `entries` by these findings: float32 (films, findings), 0 to 1, NaN where not known.

    What the source does not label is NaN. Where several of its names mean one finding, the film has it if one is
    present, lacks it if all are absent, and else it is not known.

    Raises:
      DataError: a label is uncertain (-1), and `uncertain` does not say what that means.
    """
    uncertain = uncertain or Uncertain()
    aligned = np.full((len(entries.names), len(findings)), np.nan, np.float32)
    for k, (finding, names) in enumerate(match_findings(entries.findings, findings).items()):
        if names:
            columns = entries.labels[:, [entries.findings.index(name) for name in names]]
            aligned[:, k] = _union(_resolve(columns, entries, finding, names, uncertain))
    return aligned


def _resolve(
    columns: np.ndarray, entries: Labelled, finding: str, names: tuple[str, ...], uncertain: Uncertain
) -> np.ndarray:
    unsure = columns == UNCERTAIN
    if not unsure.any():
        return columns
    value = uncertain.value(finding)
    if value is None:
        row, column = np.argwhere(unsure)[0]
        raise DataError(
            f"{entries.source}: {int(unsure.sum())} labels of {printable(names[column])!r} are uncertain (-1), the "
            f"first of film {printable(entries.names[row])[:200]}\n"
            "say what that means: --config.data.uncertain=ignore (or zero, one, 0.5, or Edema=one,Atelectasis=zero)"
        )
    return np.where(unsure, np.float32(value), columns)


def _union(columns: np.ndarray) -> np.ndarray:
    """Present where one is (1), not known where one is not and none is present, else the largest; float32 (films,)."""
    if columns.shape[1] == 1:
        return columns[:, 0]
    largest = np.fmax.reduce(columns, axis=1)
    return np.where((largest < 1.0) & np.isnan(columns).any(axis=1), np.float32(np.nan), largest)


def choose_findings(own: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The findings of a run that names none: the one source's own, or all of several, each once, by preferred name."""
    if len(own) == 1:
        return tuple(own[0])
    chosen: dict[str, str] = {}
    for name in (name for names in own for name in names):
        chosen.setdefault(spelled(preferred_name(name)), preferred_name(name))
    return tuple(chosen.values())


def describe_mapping(sources: Mapping[str, Sequence[str]], findings: Sequence[str]) -> str:
    """Which of each source's names (`sources`: label -> names) make each finding, and why; what is not used.

    Names that differ in spelling alone are not listed.
    """
    lines = []
    for source, own in sources.items():
        used = match_findings(own, findings)
        for finding, names in used.items():
            if not names:
                lines.append(f"{source}: does not label {printable(finding)}")
            for name in names:
                if reason := reason_for(name, finding):
                    lines.append(f"{source}: {printable(name)} -> {printable(finding)} ({reason})")
        rest = _unused(own, used.values())
        if rest:
            lines.append(f"{source}: not used are {first_ten(rest)}")
    return "\n".join(lines)


def _unused(own: Sequence[str], used: Iterable[tuple[str, ...]]) -> list[str]:
    taken = {name for names in used for name in names}
    return [name for name in own if name not in taken]
