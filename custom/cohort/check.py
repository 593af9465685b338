"""Judge what the files of a cohort hold, before the first step: every fault of every case in one report."""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from . import grids, resampling
from .case import TRAINING, Case, Task, can_be_streamed, nonfinite
from .data_list import PARTS, listed, record
from .errors import CohortError
from .facts import Facts, ScanFault
from .formats.itk_image import is_picture
from .formats.plane import AS_PICTURES
from .grids import BODY_AXES, along
from .label_formats import EXACT, OF_PICTURES, no_format_fits, smallest
from .names import case_names, first_file, stem
from .overlaps import judge_list
from .record import Record, TooLarge
from .words import first_names, plural, value_text

logger = logging.getLogger(__name__)

LINES = 12  # of one kind of fault are given in full
NAMES = 48  # of the cases beyond these are given
REMEDIES = {
    "Files that cannot be read": "Files that cannot be read (copy them again from their source, or export anew)"
}
OF_A_TASK = ("channels", "classes", "label_values", "dimensions", "slices", "orientation", "spacing_mm",
             "fill_nonfinite", "shared_scans", "missing_channels", "modalities_alone")  # fmt: skip


class RunSettings(Protocol):
    """The config of a run, see :class:`~..run.config.RunConfig`."""

    @property
    def bundle_root(self) -> Path: ...

    def resolved(self, name: str, default: Any = None) -> Any: ...


@dataclass
class Report:
    """What was found: faults by kind, a line each; what is odd, by kind, a name and a sentence each; what is worth
    knowing; how many volumes there are of each orientation."""

    cases: list[Case]
    facts: Mapping[str, Facts]
    recorded: int
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    odd: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    notes: list[str] = field(default_factory=list)
    orientations: str = ""

    def warnings(self) -> list[str]:
        """One text a kind, with how many cases and the first of them."""
        texts = []
        for found in self.odd.values():
            names, text = list(dict.fromkeys(name for name, _ in found)), found[0][1]
            count = f"{len(names)} scans ({first_names(names)}), the first" if len(names) > 1 else names[0]
            texts.append(f"{count}: {text}")
        return texts

    def reading(self) -> str:
        """``274 files read, 0 unchanged since an earlier check``."""
        return (
            f"{plural(len(self.facts) - self.recorded, 'file')} read, {self.recorded} unchanged since an earlier check"
        )

    def text(self) -> str:
        """The faults by kind: the first dozen in full, of the next ones the cases, of what is left the number."""
        lines = []
        for kind, found in self.faults.items():
            lines += [f"{REMEDIES.get(kind, kind)}:", *(f"  {line}" for line in found[:LINES])]
            if rest := [line.split(": ")[0] for line in found[LINES:]]:
                lines.append(f"  and {len(rest)} more: {first_names(rest, NAMES)}")
        return "\n  ".join(lines)


class Check:
    """Judge the scans of a cohort before the first step.

    Called with parts of a cohort it reads each file once to its end, or asks the record, logs what is odd, and raises
    one error with all faults. Labels of unlabelled scans are never opened. Two scans are copies where shape and values
    of the voxels agree; images of one value (blank ones) are not compared.

    Args:
        channels: names in the network's order; none: any number.
        classes: names, background first; none and no label_values: any whole numbers from 0 are labels.
        label_values: of the classes in label files; by default 0, 1, ..., K - 1.
        dimensions: of the network; None: scans may have 2 or 3.
        slices: a 2D network sees volumes slice by slice.
        orientation: that volumes are turned to when they are read, ``RAS``; empty: they stay as they are stored.
        fill_nonfinite: the reader fills NaN and infinite voxels of images: a warning, no fault.
        shared_scans: a scan may be labelled and unlabelled at once.
        missing_channels: scans for training may lack all modalities except one; the log says how many do.
        modalities_alone: a network reads one modality: scans of every part may lack the others.
        spacing_mm: that images are resampled to, an axis at a time; -1 keeps one; None: none is resampled.
        named: classes that have a name, where no label_values say which: labels may have as many values.
        in_slabs: a network's results need not fit in memory as a whole, :mod:`..inference.slabs`.
        needs: parts that may not be empty, where they are given.
        unread: parts whose files are not opened (the test part in training): their patients and paths are compared,
            and what the record knows of their voxels.
        record: what files held, or the JSON file of it, see :class:`~.record.Record`; what is in it and did not change is not
            read again.
        workers: threads that read; by default one a core, at most four.
        memory_gb: bound of the whole process, GB (1e9 bytes): an image that cannot be read within it, as a whole or in
            pieces, is a fault, and no voxel of it is read; None: what the machine has.

    Raises:
        CohortError: not as many label values as classes, one twice, or one that is not a whole number that files can
            hold; names of classes under which results would be reported twice; a channel that cannot be the name of a
            file.
    """

    def __init__(
        self,
        channels: Sequence[str] = (),
        classes: Sequence[str] = (),
        label_values: Sequence[int] | None = None,
        dimensions: int | None = None,
        slices: bool = False,
        orientation: str = "",
        fill_nonfinite: bool = False,
        shared_scans: bool = False,
        missing_channels: bool = True,
        modalities_alone: bool = False,
        spacing_mm: Sequence[float] | float | None = None,
        in_slabs: bool = False,
        named: int = 0,
        needs: Collection[str] = ("labelled",),
        unread: Mapping[str, Sequence[Mapping]] | None = None,
        record: Record | str | Path | None = None,
        workers: int | None = None,
        memory_gb: float | None = None,
    ) -> None:
        values = tuple(range(len(classes)) if label_values is None else label_values)
        if classes and (len(values) != len(classes) or len(set(values)) != len(values)):
            raise CohortError(
                f"label_values {list(values)}: expected one value for each of {list(classes)}, none twice"
            )
        if len(set(classes)) != len(classes) or "mean" in classes[1:]:
            raise CohortError(
                f"classes {list(classes)}: expected different names, none of them 'mean', under which results are reported. "
                "To make two label values one class, remap the labels"
            )
        if parted := [name for name in channels if not name or "/" in name or "\\" in name]:
            raise CohortError(
                f"channels {list(channels)}: {parted[0]!r} cannot be the name of a file, which a network that reads one "
                "channel has, and a folder of images: expected names without / and \\. Rename the channel, in the data "
                "list too"
            )
        if any(value % 1 or abs(value) > EXACT for value in values):
            raise CohortError(f"label_values {list(values)}: expected whole numbers from {-EXACT} to {EXACT}")
        if orientation and sorted(map(along, orientation)) != sorted(BODY_AXES.values()):
            raise CohortError(f"orientation {orientation!r}: expected one of L or R, P or A and I or S each, as in RAS")
        axes = 3 if slices else dimensions
        self.task = Task(
            channels=tuple(channels), values=values, axes=axes, slices=slices, orientation=orientation,
            fill_nonfinite=fill_nonfinite, missing_channels=missing_channels, modalities_alone=modalities_alone,
            spacing_mm=spacing_mm, in_slabs=in_slabs, named=named,
        )  # fmt: skip
        self.names = dict(zip(values, classes, strict=True)) if classes else {}
        self.shared_scans, self.needs, self.unread = shared_scans, tuple(needs), dict(unread or {})
        self.record = record if isinstance(record, Record) else Record(record)
        self.workers, self.memory_gb = workers, memory_gb

    def __call__(self, parts: Mapping[str, Sequence[Mapping]]) -> dict[str, int]:
        """How many scans there are in each part. What is odd goes to the log.

        Raises:
            CohortError: all faults of all cases.
        """
        report = self.report(parts)
        for warning in report.warnings():
            logger.warning(warning)
        for note in report.notes:
            logger.info(note)
        if report.faults:
            raise CohortError(f"The scans cannot be used.\n  {report.text()}")
        if report.cases:  # none: an inference that has every prediction already
            logger.info("No faults in %s (%s).", plural(len(report.cases), "scan"), report.reading())
        return {part: len(entries) for part, entries in parts.items()}

    def sizes(self, entries: Sequence[Mapping]) -> list[resampling.Size]:
        """The size of each scan that was judged before; others are left out."""
        sizes = []
        for case in self._cases("unlabelled", list(map(_entry, entries))):
            if known := [facts for file in case.files.values() if (facts := self.record.known(file))]:
                channels, file = sum(facts.channels for facts in known), next(iter(case.files.values()))
                shape, seen, streamed = known[0].shape, self.task.seen(known[0]), can_be_streamed(case, known)
                sizes.append(resampling.Size(file, channels, math.prod(shape), seen, streamed))
        return sizes

    def report(self, parts: Mapping[str, Sequence[Mapping]]) -> Report:
        """Everything that was found, nothing raised."""
        entries = {part: [_entry(entry) for entry in found] for part, found in {**self.unread, **parts}.items()}
        cases = [case for part in PARTS for case in self._cases(part, entries.get(part, []))]
        judged = [case for case in cases if case.part in parts]
        files = list(dict.fromkeys(file for case in judged for file in case.paths() if os.path.exists(file)))
        labels = {case.label for case in judged}
        recorded = sum(self.record.known(file, file in labels) is not None for file in files)
        found = self.record.facts(files, self.workers, labels, self.memory_gb)
        facts = {file: scan for file, scan in found.items() if isinstance(scan, Facts)}
        report = Report(judged, facts, recorded)
        report.faults.update(self._list(entries, parts))
        pictures = any(is_picture(file) for case in judged for file in case.files.values())
        if pictures and self.task.values and smallest(self.task.values, OF_PICTURES) is None:
            report.faults["The task"].append(no_format_fits(self.task.values, OF_PICTURES))
        for case in judged:
            broken = [file for file in case.paths() if isinstance(found.get(file), ScanFault)]
            damaged = [(_kind(found[file]), f"{case.kind(file)}{found[file]}") for file in broken]
            back = _brought_back(case, parts)
            for kind, fault in (*damaged, *self.task.faults(case, facts, back)):
                report.faults[kind].append(f"{case}: {fault}")
        known = {file: scan for case in cases for file in case.files.values()
                 if (scan := facts.get(file) or self.record.known(file))}  # fmt: skip
        self._copies(cases, known, report)
        unread = [case for case in cases if case.part not in parts]
        self._never_read(unread, known, report)
        self._to_be_scored(unread, known, report)
        self._oddities(report)
        self._orientations(report)
        self._planes(report)
        for part in parts:
            self._note(part, report)
        return report

    def _cases(self, part: str, entries: list[dict]) -> Iterator[Case]:
        for entry, name in zip(entries, case_names(entries, self.task.channels), strict=True):
            image, label = entry["image"], (entry.get("label") or "") if part != "unlabelled" else ""
            if image:
                files = image if isinstance(image, Mapping) else {"": image}
                there = {channel: str(file) for channel, file in files.items() if file}
                yield Case(part, name, entry["patient"], there, str(label))

    def _list(self, entries: Mapping[str, list[dict]], judged: Collection[str]) -> dict[str, list[str]]:
        """What can be seen without opening a file, and parts that are empty."""
        unread = [part for part in entries if part not in judged]
        lines = judge_list(entries, unread, self.shared_scans)
        lines += [f"no {part} scans; at least one is needed. Add entries under '{part}' in the data list"
                  for part in self.needs if part in judged and not entries[part]]  # fmt: skip
        return {"The list": lines} if lines else {}

    # ---- one scan in two places -------------------------------------------------------------------------------------

    def _copies(self, cases: Sequence[Case], known: Mapping[str, Facts], report: Report) -> None:
        """A scan copied or renamed: a fault across parts, odd within one."""
        seen: dict[str, list[tuple[Case, str]]] = defaultdict(list)
        for case in cases:
            for file in case.files.values():
                if file in known and known[file].low < known[file].high:
                    self._compare(case, file, seen[known[file].voxels], report)
                    seen[known[file].voxels].append((case, file))

    def _compare(self, case: Case, file: str, others: Sequence[tuple[Case, str]], report: Report) -> None:
        """Report a copy once: of the first scan it may not share its voxels with, else of the first in its own part."""
        clashes = [(*other, remedy) for other in others if (remedy := self._clash(case, file, *other))]
        within = [(*other, "") for other in others if other[0].part == case.part]
        for other, copy, remedy in (clashes or within)[:1]:
            same = f"{Path(file).name} holds the same image as {Path(copy).name} of {other}"
            if remedy:
                report.faults["One scan in two places"].append(f"{case}: {same}. {remedy}")
            else:
                report.odd["copies"].append((str(case), same))

    def _clash(self, case: Case, file: str, other: Case, copy: str) -> str:
        """What to do about a scan that two parts share; empty where they may, or the list's own faults name it."""
        a, b = ("training" if c.part in TRAINING else c.part for c in (case, other))
        if a != b:
            return f"Remove it from {b} or from {a}" if case.patient != other.patient else ""
        same_file = file == copy == next(iter(case.files.values())) == next(iter(other.files.values()))
        if case.part != other.part and not same_file and not self.shared_scans:
            return "Remove one entry, or set shared_scans to true"
        return ""

    def _never_read(self, unread: Sequence[Case], known: Mapping[str, Facts], report: Report) -> None:
        """Parts that this run does not open are compared by content as far as an earlier check has read them."""
        for part in PARTS:
            new = [case.name for case in unread if case.part == part
                   and any(file not in known and os.path.exists(file) for file in case.files.values())]  # fmt: skip
            if new:
                report.notes.append(f"{part}: {plural(len(new), 'scan')} never read by a check, so copies of them are not "
                                    "found; `python -m custom.cohort check LIST` reads them")  # fmt: skip

    def _to_be_scored(self, unread: Sequence[Case], known: Mapping[str, Facts], report: Report) -> None:
        """Note, before the training, test scans of an earlier check whose results will not fit in memory."""
        for case in (case for case in unread if case.part == "test"):
            images = {channel: known[file] for channel, file in case.files.items() if file in known}
            if fault := self.task.result(case, images):
                report.odd["results"].append((str(case), f"no evaluation can score it here: {fault}"))

    # ---- what is not a fault -----------------------------------------------------------------------------------------

    def _oddities(self, report: Report) -> None:
        for case in report.cases:
            for file in case.paths():
                scan = report.facts.get(file)
                for text in scan.warnings if scan else ():
                    report.odd[text.split(":")[0]].append((str(case), f"{case.called(file)}: {text}"))
                if scan and file != case.label and scan.low == scan.high:
                    report.odd["blank"].append(
                        (str(case), f"{case.called(file)} is blank: it is {value_text(scan.low)} all over")
                    )
                if scan and scan.nonfinite and file != case.label and self.task.fill_nonfinite:
                    report.odd["nonfinite"].append((str(case), f"{nonfinite(Path(file).name, scan)}, filled when read"))

    def _orientations(self, report: Report) -> None:
        """Where the axes of the volumes run to; noted where they differ or are turned when they are read."""
        cases: dict[str, list[str]] = defaultdict(list)
        for case in report.cases:
            scans = [report.facts[file] for file in case.files.values() if file in report.facts]
            if scans and len(scans[0].shape) == 3:
                cases[grids.orientation(scans[0].affine)].append(str(case))
        most, *others = sorted(cases, key=lambda code: (-len(cases[code]), code)) or [""]
        names = [f"{len(cases[code])} {code} ({first_names(cases[code])})" for code in others]
        report.orientations = ", ".join([f"{len(cases[most])} {most}", *names]) if most else ""
        if most and self.task.orientation and {most, *others} != {self.task.orientation}:
            report.orientations += f"; they are turned to {self.task.orientation} when they are read"
            report.notes.append(f"orientation of the volumes: {report.orientations}")
        elif others and not self.task.orientation:
            common = plural(len(cases[most]), "scan")
            differs = f"axes run to {others[0]}, those of {common} to {most}, and no orientation in the task turns them"
            report.odd["orientation"] += [(name, differs) for code in others for name in cases[code]]

    def _planes(self, report: Report) -> None:
        """Where the axes of scans of two axes run to in their files; noted where one is turned when it is read."""
        cases: dict[str, list[str]] = defaultdict(list)
        for case in report.cases:
            for file in [file for file in case.files.values() if file in report.facts][:1]:
                if (stored := report.facts[file].stored) and not is_picture(file):
                    cases[stored].append(str(case))
        if any(code not in AS_PICTURES for code in cases):
            names = [f"{len(cases[code])} {code} ({first_names(cases[code])})"
                     for code in sorted(cases, key=lambda code: (-len(cases[code]), code))]  # fmt: skip
            report.notes.append(f"orientation of the scans of two axes: {', '.join(names)}; they are turned to LP, LI or PI when "
                                "they are read, as pictures lie")  # fmt: skip

    def _note(self, part: str, report: Report) -> None:
        """How many labels are empty, which modalities are missing, which classes no labelled scan has."""
        cases = [case for case in report.cases if case.part == part]
        values = {case.name: {value for value, _ in scan.values or ()} for case in cases
                  if (scan := report.facts.get(case.label)) and scan.values}  # fmt: skip
        background = self.task.values[0] if self.task.values else 0
        if empty := [name for name, found in values.items() if found == {background}]:
            report.notes.append(f"{part}: {len(empty)} of {len(values)} labels are empty ({first_names(empty)})")
        for channel in self.task.channels:
            lack = [case.name for case in cases if channel in self.task.lacks(case)]
            if lack and self.task.counts_lacks(part):
                report.notes.append(f"{part}: {len(lack)} of {len(cases)} scans lack {channel} ({first_names(lack)})")
        if part == "labelled" and values and "Labels" not in report.faults:
            for value in [v for v in self.task.values[1:] if not any(v in found for found in values.values())]:
                name = self.names.get(value, "")
                named = f"{value_text(value)} {name}".rstrip()
                report.odd[f"class {value}"].append(("labelled", f"no scan has the class {named}: it cannot be learnt"))


def of_run(config: RunSettings, **task: Any) -> Check:
    """Make the check of a run, or of an inference, from the ids of its config.

    Args:
        config: of the run; its task, and where its data list lies, if it has one.
        task: more arguments of :class:`Check`.

    Raises:
        CohortError: as :class:`Check`.
    """
    task = {name: value for name in OF_A_TASK if (value := config.resolved(name)) is not None} | task
    if config.resolved("data_list") is not None:
        where = {name: config.resolved(name) for name in ("data_list", "dataset_dir")} | {"root": config.bundle_root}
        task |= {"unread": listed(**where), "record": record(**where, output_dir=config.resolved("output_dir"))}
    return Check(**task)


def _kind(fault: Facts | ScanFault) -> str:
    return "Memory" if isinstance(fault, TooLarge) else "Files that cannot be read"


def _brought_back(case: Case, judged: Collection[str]) -> bool:
    """Whether a network's result for a case is brought back to the case's own grid: in inference and evaluation. A training
    judges labelled scans and scores those for validation on the network's grid; no training judges the test part."""
    return case.part == "test" or "labelled" not in judged


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with its image as path or by channel (by number, where it is a list of paths), and a patient."""
    image = entry.get("image") or None
    plain = {**entry, "image": image if isinstance(image, str | Path | Mapping | None) else dict(enumerate(image))}
    return {**plain, "patient": str(entry.get("patient") or stem(first_file(plain)))}
