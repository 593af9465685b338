"""Patients, from the names of scans alone."""

from __future__ import annotations

import pytest

from custom.cohort.found import patients
from custom.study.patients import EACH, propose


def numbered(form: str, count: int = 12, *scans: str) -> list[str]:
    return [form.format(i, scan) for i in range(count) for scan in scans or ("",)]


@pytest.mark.parametrize(("names", "first", "count"), [
    (numbered("patient{:03d}_{}", 12, "ED", "ES"), "patient000", 12),
    (["010_HC", "010_2HC", "011_HC", "012_HC"], "010", 3),
    (numbered("sub-{:02d}_ses-{}_T1w", 12, "01", "02"), "sub-00", 12),
    (["sub-A_ses-1_T1w", "sub-A_ses-2_T1w", "sub-B_ses-1_T1w", "sub-C_ses-1_T1w"], "sub-A", 3),
    (numbered("P{}_{}", 12, "L", "R"), "P0", 12),
    (numbered("P{}{}", 12, "L", "R"), "P0", 12),  # between a number and its letters
    (numbered("BraTS-GLI-{:05d}-{}", 12, "000", "001"), "BraTS-GLI-00000", 12),
    (numbered("TCGA_02_{:04d}_{}", 12, "1996", "1998"), "TCGA_02_0000", 12),  # not the hospital 02
    (["TCGA_DU_A5TP_1997", "TCGA_DU_A5TP_1998", "TCGA_DU_A5TR_1997", "TCGA_DU_A5TS_1997"], "TCGA_DU_A5TP", 3),
    (numbered("covid19_patient{}_slice{}", 12, "1", "2"), "covid19_patient0", 12),  # not all of one patient
    (numbered("study2_group1_p{}_{}", 12, "a", "b"), "study2_group1_p0", 12),
    (numbered("LIDC-IDRI-{:04d}/{}", 12, "CT", "PET"), "LIDC-IDRI-0000", 12),
    (["P1_L", "P1_R", "P2_L", "P2_R"], "P1", 2),  # of four scans two patients are believed
    (["P1_ED", "P1_ES"], "P1", 1),
    (numbered("Müller{}_{}", 12, "ü", "o"), "Müller0", 12),
])  # fmt: skip
def test_scans_that_share_the_beginning_with_a_number_are_of_one_patient(names, first, count):
    found = propose(names)
    assert (next(iter(found.patients)), len(found.patients)) == (first, count)
    assert sorted(name for scans in found.patients.values() for name in scans) == sorted(names)
    assert f"{count} patient" in found.why
    assert f"of {len(names)} scans" in found.why
    assert names[0] in found.why


@pytest.mark.parametrize("names", [
    numbered("hippocampus_{:03d}"),
    numbered("benign ({})") + numbered("malignant ({})"),
    ["cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4", "cju1qx73cjw570799j4n5cjze"],
    ["06SR5RBREL16DQ6M8LWS", "0RZDK210BSMWAA6467LU", "0RG15S0GJ6PFNARO469W"],
    ["3f2504e0-4f89-11d3", "3f2504e1-4f89-11d3", "aa2504e0-4f89-11d3", "bb-4f89-11d3"],
    numbered("1.2.840.113619.2.{}"),  # DICOM's unique numbers
    numbered("BraTS20_Training_{:03d}"),
    ["anna", "bert", "carl"],
    ["p1"],
])  # fmt: skip
def test_without_a_shared_beginning_each_scan_is_a_patient(names):
    found = propose(names)
    assert found.pattern == EACH
    assert found.patients == {name: [name] for name in names}
    assert found.why.startswith(f"each of {len(names)} scan")


def test_many_scans_are_never_of_one_or_two_patients_and_the_sentence_says_how_to_have_it_so():
    names = numbered("p{}_{}", 2, *map(str, range(10)))
    found = propose(names)
    assert len(found.patients) == 20
    assert "names begin with p0, p1, too few to be the patients" in found.why
    pattern = found.why.split("'")[1]
    assert sorted(set(patients(names, pattern))) == ["p0", "p1"]


def test_the_pattern_is_one_that_make_takes_and_gives_the_same_patients():
    for names in (numbered("a1_p{}_{}", 5, "x", "y"), numbered("P{}{}", 5, "L", "R"), numbered("site_{}")):
        found = propose(names)
        whose = patients(names, found.pattern)
        assert {p: [n for n, w in zip(names, whose, strict=True) if w == p] for p in found.patients} == found.patients
