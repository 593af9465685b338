"""Scans from a cache are those of the files, in memory or on disk; what is damaged, gone or of other files is made anew."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT, TINY
from monai.transforms import Compose, EnsureChannelFirstd, Flipd, LoadImaged, ScaleIntensityRanged
from test_resume import assert_same_state
from waiting import until

from custom.cohort.record import settled
from custom.stream import cache as cache_module
from custom.stream import identity
from custom.stream import storage as storage_module
from custom.stream.bank import Bank
from custom.stream.cache import Cache, CacheError, OnDisk
from custom.stream.identity import preprocessing
from custom.stream.scan import Scan
from custom.stream.storage import Storage

KEYS = ("image", "label")
CALLS: list[str] = []


class Counted(Compose):
    """Counts the cases that are read."""

    def __call__(self, data, *args, **kwargs):
        CALLS.append(str(data["image"]))
        return super().__call__(data, *args, **kwargs)


def reading(b_max=1.0, keys=KEYS):
    scale = ScaleIntensityRanged("image", 0, 100, 0, b_max)
    return Counted([LoadImaged(keys), EnsureChannelFirstd(keys), scale])


@pytest.fixture(autouse=True)
def calls():
    CALLS.clear()
    return CALLS


@pytest.fixture
def cases(tmp_path):
    """Three volumes whose voxels all differ, with two classes."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 100, (9, 8, 5))
        label = np.zeros((9, 8, 5))
        label[2:4, 3, number], label[5:, 6:, 1:3] = 1, 2
        for name, voxels in (("image", image), ("label", label)):
            affine = np.diag([1, 2, 5, 1])
            nib.save(nib.Nifti1Image(voxels.astype(np.float32), affine), folder / f"{name}{number}.nii.gz")
            os.utime(folder / f"{name}{number}.nii.gz", (1e9, 1e9))
    return [{key: str(folder / f"{key}{number}.nii.gz") for key in KEYS} for number in range(3)]


def on_disk(tmp_path, **settings):
    return Storage(**{"memory_share": 0.0, "cache_dir": str(tmp_path / "cache"), **settings})


def in_memory(tmp_path):
    return Storage(memory_share=1.0, cache_dir=str(tmp_path / "cache"))


def files(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.scan"))


def assert_same(bank, other):
    assert bank.digest() == other.digest()
    assert bank.items.tolist() == other.items.tolist()
    for case in range(len(bank)):
        assert bank.spacing_mm(case) == other.spacing_mm(case)
        assert bank.intensities(case) == other.intensities(case)
        one, two = bank[case], other[case]
        assert one.pop("case") == two.pop("case")
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    items = torch.arange(len(bank.items))
    for item in items.tolist():
        assert bank.shape(item) == other.shape(item)
        torch.testing.assert_close(bank.foreground(item), other.foreground(item), rtol=0, atol=0)
    size = [4] * len(bank.shape(0))
    centres = torch.tensor([[3] * len(size)] * len(items))
    torch.testing.assert_close(bank.crops(items, centres, size), other.crops(items, centres, size), rtol=0, atol=0)
    assert torch.equal(bank.present(items), other.present(items))


@pytest.mark.parametrize("slices", [False, True])
@pytest.mark.parametrize("store", [on_disk, in_memory])
@pytest.mark.parametrize("workers", [0, 2])
def test_scans_of_a_cache_are_those_of_the_files_and_are_read_once(cases, tmp_path, slices, store, workers):
    plain = Bank(cases, reading(), slices=slices)
    plain.load()
    for reads in (3, 0):
        CALLS.clear()
        bank = Bank(cases, reading(), slices=slices, workers=workers, storage=store(tmp_path))
        bank.load()
        assert len(CALLS) == reads
        assert_same(bank, plain)
        assert isinstance(bank._scan(0), OnDisk) == (store is on_disk)


def test_a_missing_modality_and_a_bank_without_labels(cases, tmp_path):
    data = [{"image": {"t1": cases[0]["image"], "t2": cases[1]["image"]}}, {"image": {"t2": cases[2]["image"]}}]
    transform = Compose([LoadImaged("image"), EnsureChannelFirstd("image", channel_dim="no_channel")])

    def both(case):
        images = [transform({"image": file})["image"] for file in case["image"]]
        return {"image": torch.cat(images)}

    banks = [
        Bank(data, both, ("image",), channels=("t1", "t2"), storage=s)
        for s in (None, on_disk(tmp_path), on_disk(tmp_path))
    ]
    assert_same(banks[0], banks[1])
    assert_same(banks[0], banks[2])
    swapped = [{"image": {"t1": data[0]["image"]["t2"], "t2": data[0]["image"]["t1"]}}]
    other = Bank(swapped, both, ("image",), channels=("t1", "t2"), storage=on_disk(tmp_path))
    torch.testing.assert_close(other[0]["image"], banks[0][0]["image"].flip(0))


def test_content_and_preprocessing_are_the_key_not_the_place(cases, tmp_path):
    def reads(data, transform, **settings):
        CALLS.clear()
        Bank(data, transform, storage=on_disk(tmp_path), **settings).load()
        return len(CALLS)

    assert reads(cases, reading()) == 3
    shutil.copytree(tmp_path / "scans", tmp_path / "moved")
    moved = [{key: value.replace("/scans/", "/moved/") for key, value in case.items()} for case in cases]
    assert reads(moved, reading()) == 0
    assert reads(cases, reading(b_max=2.0)) == 3
    assert reads(cases, reading(), slices=True) == 3
    assert reads(cases, reading(keys=("image",)), keys=("image",)) == 3
    assert reads(cases, reading()) == 0
    image = nib.load(cases[1]["image"])
    voxels = image.get_fdata().astype(np.float32)
    voxels[0, 0, 0] += 1
    nib.save(nib.Nifti1Image(voxels, image.affine), cases[1]["image"])
    assert reads(cases, reading()) == 1
    assert Bank(cases, reading(), storage=on_disk(tmp_path)).digest() == Bank(cases, reading()).digest()


def test_a_file_of_the_same_size_and_time_of_writing_is_noticed(cases, tmp_path):
    """Its time of change cannot be put back."""
    raw = Path(cases[0]["image"])
    nib.save(nib.load(raw), tmp_path / "scans/a.nii")
    case = {**cases[0], "image": str(tmp_path / "scans/a.nii")}
    os.utime(case["image"], (1e9, 1e9))
    until(lambda: settled(case["image"]))
    Bank([case], reading(), storage=on_disk(tmp_path)).load()
    assert case["image"] in (tmp_path / "cache/contents.jsonl").read_text(encoding="utf-8")
    content = bytearray(Path(case["image"]).read_bytes())
    content[-1] ^= 0x01
    Path(case["image"]).write_bytes(content)
    os.utime(case["image"], (1e9, 1e9))
    assert Bank([case], reading(), storage=on_disk(tmp_path)).digest() == Bank([case], reading()).digest()


@pytest.mark.fault("44", "cut, overwritten, other bytes, empty, something else")
@pytest.mark.parametrize("damage", [
    lambda raw: raw[:-1], lambda raw: raw[:100], lambda raw: b"", lambda raw: b"no scan" * 100, lambda raw: raw + b"x",
    lambda raw: raw[:-700] + bytes([raw[-700] ^ 1]) + raw[-699:], lambda raw: raw[:90] + b"1" + raw[91:],
])  # fmt: skip
@pytest.mark.parametrize("while_used", [False, True])
def test_a_damaged_file_is_made_anew(cases, tmp_path, damage, while_used, caplog):
    plain, bank = Bank(cases, reading()), Bank(cases, reading(), storage=on_disk(tmp_path))
    plain.load()
    bank.load()
    for file in files(tmp_path):
        file.write_bytes(damage(file.read_bytes()))
    CALLS.clear()
    if not while_used:
        bank = Bank(cases, reading(), storage=on_disk(tmp_path))
    assert_same(bank, plain)
    assert len(CALLS) == 3
    assert caplog.text.count(".scan ") == caplog.text.count("is made anew") == 3
    CALLS.clear()
    Bank(cases, reading(), storage=on_disk(tmp_path)).load()
    assert not CALLS


@pytest.mark.fault("44", "a bit flipped beneath the old time of writing")
@pytest.mark.parametrize("store", [on_disk, in_memory])
def test_a_bit_that_is_lost_beneath_the_old_time_is_found_where_a_scan_is_read_as_a_whole(
    cases, tmp_path, store, caplog
):
    plain = Bank(cases, reading())
    Bank(cases, reading(), storage=on_disk(tmp_path)).load()
    for file in files(tmp_path):
        raw, stat = bytearray(file.read_bytes()), file.stat()
        raw[-700] ^= 1
        file.write_bytes(raw)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert_same(Bank(cases, reading(), storage=store(tmp_path)), plain)
    assert caplog.text.count(".scan has other voxels than were written and is made anew") == 3
    caplog.clear()
    Bank(cases, reading(), storage=in_memory(tmp_path)).load()
    assert not caplog.records, "the files are whole again"


def test_the_checksum_of_a_scan_on_disk_is_compared_once_a_run(cases, tmp_path, monkeypatch):
    bank = Bank(cases, reading(), storage=on_disk(tmp_path))
    bank.load()
    compared, mapped = [], cache_module.map_arrays

    def counted(path, header, compare=False):
        compared.append(compare)
        return mapped(path, header, compare)

    monkeypatch.setattr(cache_module, "map_arrays", counted)
    bank.crops(torch.tensor([0]), torch.tensor([[3, 3, 3]]), (4, 4, 4))
    assert not any(compared), "a patch would read all of its scan"
    for _ in range(2):
        for case in range(3):
            assert bank[case]
    assert compared.count(True) == 3


@pytest.mark.fault("44", "removed while a run reads from it")
def test_the_folder_may_go_at_any_time(cases, tmp_path):
    bank = Bank(cases, reading(), storage=on_disk(tmp_path))
    bank.load()
    shutil.rmtree(tmp_path / "cache")
    assert_same(bank, Bank(cases, reading()))
    assert len(files(tmp_path)) == 3


@pytest.mark.fault("44", "removed, and the scans have changed")
def test_scans_that_have_changed_do_not_take_the_place_of_what_a_run_began_with(cases, tmp_path):
    bank = Bank(cases, reading(), storage=on_disk(tmp_path))
    bank.load()
    shutil.rmtree(tmp_path / "cache")
    shutil.copy(cases[1]["image"], cases[0]["image"])
    with pytest.raises(CacheError, match=r"\.scan: the scan that it held has changed since this run began"):
        bank.crops(torch.tensor([0]), torch.tensor([[3, 3, 3]]), (4, 4, 4))


def test_a_copy_of_the_folder_is_as_good(cases, tmp_path, caplog):
    """Its times of writing are others, so the voxels are checked, once."""
    Bank(cases, reading(), storage=on_disk(tmp_path)).load()
    shutil.copytree(tmp_path / "cache", tmp_path / "copy", copy_function=shutil.copyfile)
    CALLS.clear()
    storage = on_disk(tmp_path, cache_dir=str(tmp_path / "copy"))
    assert_same(Bank(cases, reading(), storage=storage), Bank(cases, lambda case: reading()(case)))
    assert len(CALLS) == 3, "of the second bank alone"
    seals = {file.name: file.stat().st_mtime_ns % 10**9 for file in files(tmp_path)}
    assert {f.name: f.stat().st_mtime_ns % 10**9 for f in (tmp_path / "copy").rglob("*.scan")} == seals
    assert not caplog.records


def test_what_does_not_fit_into_memory_goes_to_the_run_s_folder(cases, tmp_path, caplog, monkeypatch):
    """Three scans of 360 voxels, 3 bytes each; 2,000 bytes are free, and half of that is less than one."""
    monkeypatch.setattr(storage_module, "free_memory", lambda: 2000.0)
    with caplog.at_level(logging.INFO):
        bank = Bank(cases, reading(), storage=Storage(0.5, "", "out", tmp_path))
        bank.load()
    assert isinstance(bank._scan(0), OnDisk)
    assert_same(bank, Bank(cases, reading()))
    assert not Path("cache").exists(), "a bank without an output folder keeps all in memory"
    assert "more than the 1.0 kB that are left of 50% of the free memory" in caplog.text
    assert f"labelled: 3 scans for {tmp_path}/out/cache, some 3.2 kB" in caplog.text
    assert f"0.0 MB on disk in {tmp_path}/out/cache" in caplog.messages[-1]
    assert len(list((tmp_path / "out/cache").rglob("*.scan"))) == 3
    monkeypatch.setattr(storage_module, "free_memory", lambda: 7000.0)
    bank = Bank(cases, reading(), storage=Storage(0.5, "", "none", tmp_path))
    bank.load()
    assert not isinstance(bank._scan(0), OnDisk)
    assert not (tmp_path / "none").exists()


def test_a_run_that_goes_on_preprocesses_nothing_that_lies_in_its_folder(cases, tmp_path, monkeypatch):
    for free, kind in ((2000.0, OnDisk), (2000.0, OnDisk), (7000.0, Scan)):
        monkeypatch.setattr(storage_module, "free_memory", lambda free=free: free)
        CALLS.clear()
        bank = Bank(cases, reading(), storage=Storage(0.5, "", "out", tmp_path))
        bank.load()
        assert isinstance(bank._scan(0), kind)
    assert CALLS == [], "of the last one; of the first they are all"
    assert_same(bank, Bank(cases, reading()))


@pytest.mark.parametrize("cache_dir", ["", "cache"])
def test_the_parts_of_a_cohort_have_one_share(cases, tmp_path, monkeypatch, cache_dir):
    """Each takes 3,240 bytes, of 10,000 that stay free as a process sees it: a half is enough for one."""
    monkeypatch.setattr(storage_module, "free_memory", lambda: 10000.0)
    storage = Storage(0.5, cache_dir, "out", tmp_path)
    kinds = []
    for _ in range(2):
        bank = Bank(cases, reading(), storage=storage)
        bank.load()
        kinds.append(type(bank._scan(0)))
    assert kinds == [Scan, OnDisk]


def test_processes_of_one_machine_share_its_memory(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(storage_module, "free_memory", lambda: 7000.0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    bank = Bank(cases, reading(), storage=Storage(0.5, "", "out", tmp_path))
    bank.load()
    assert isinstance(bank._scan(0), OnDisk)


@pytest.mark.fault("44", "no room, no folder")
def test_room_is_judged_before_anything_is_written(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9000, 8000, 1000))
    text = r"labelled: 3 scans for \S*/cache, some 3.2 kB, .* 1.0 kB are free. Name another .* cache_dir"
    with pytest.raises(CacheError, match=text + ", or a coarser"):
        Bank(cases, reading(), storage=on_disk(tmp_path)).load()
    text = text.replace("cache", "out/cache", 1)
    with pytest.raises(CacheError, match=text + ", a larger memory_share where they fit into memory, or a coarser"):
        Bank(cases, reading(), storage=Storage(0.0, "", "out", tmp_path)).load()
    assert not files(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(
        CacheError, match=r"cache_dir \S*/file/in: cannot be made \(Not a directory\). Name another folder"
    ):
        Bank(cases, reading(), storage=on_disk(tmp_path, cache_dir=str(tmp_path / "file/in"))).load()
    with pytest.raises(ValueError, match=r"memory_share is a share of the free memory, in \[0, 1\], got 2"):
        Storage(2.0)


@pytest.mark.fault("44", "several processes at once")
def test_processes_fill_one_folder_together(cases, tmp_path):
    plain = Bank(cases, reading()).digest()
    processes = multiprocessing.get_context("fork")
    digests = processes.Queue()

    def fill():
        digests.put(Bank(cases, reading(), storage=on_disk(tmp_path)).digest())

    running = [processes.Process(target=fill) for _ in range(3)]
    for process in running:
        process.start()
    assert {digests.get(timeout=60) for _ in running} == {plain}
    for process in running:
        process.join()
    assert len(files(tmp_path)) == 3
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    CALLS.clear()
    Bank(cases, reading(), storage=on_disk(tmp_path)).load()
    assert not CALLS


def test_another_process_knows_the_same_transform(cases):
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]; from test_cache import preprocessing, reading; "
    found = subprocess.run(
        [sys.executable, "-c", code + "print(preprocessing(reading()))"], capture_output=True, text=True
    )
    assert found.stdout.strip() == preprocessing(reading())


def test_torn_lines_of_contents_are_as_if_they_were_not_there(cases, tmp_path, monkeypatch):
    """And a file that was written a moment ago is not trusted not to be written again."""
    until(lambda: all(settled(case[key]) for case in cases for key in KEYS))
    with monkeypatch.context() as young:
        young.setattr(identity, "settled", lambda _: None)
        Bank(cases[:1], reading(), storage=on_disk(tmp_path)).load()
    assert not (tmp_path / "cache/contents.jsonl").exists()
    Bank(cases, reading(), storage=on_disk(tmp_path)).load()
    lines = tmp_path / "cache/contents.jsonl"
    known = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [name for name, *_ in known] == [case[key] for case in cases for key in KEYS]
    lines.write_bytes(lines.read_bytes()[:-20] + b'[]\n["a", 1]\n\xff{\n')
    CALLS.clear()
    Bank(cases, reading(), storage=on_disk(tmp_path)).load()
    assert not CALLS


def test_a_transform_is_known_by_what_it_does():
    def of(transform, **settings):
        return preprocessing(transform, **settings)

    same = [of(reading()) for _ in range(2)]
    assert same[0] == same[1]
    other = [
        reading(b_max=2.0), Compose(reading().transforms), Compose(reading().transforms[::-1]), lambda case: case,
        lambda case: {**case}, lambda case: {**case, "a": 1}, lambda case: {**case, "a": 2}, Flipd("image", 0), Flipd("image", 1),
        *(shift(by) for by in (1, 2)), *(shift(np.float32(by)) for by in (1, 2)),
    ]  # fmt: skip
    known = [of(transform) for transform in other]
    assert len({same[0], *known}) == 1 + len(other)
    assert of(reading(), keys=("image",)) != of(reading(), keys=KEYS)
    seeded = reading()
    seeded.set_random_state(5)
    assert of(seeded) == same[0], "what is random is no part of it"


def shift(by):
    return lambda case: {**case, "image": case["image"] + by}


def test_use_does_not_change_what_a_transform_is(cases):
    transform = reading()
    before = preprocessing(transform)
    transform(dict(cases[0]))
    assert preprocessing(transform) == before


def test_training_from_a_cache_is_bit_for_bit_what_it_is_without(run_bundle, tmp_path, caplog):
    """And a further run of any bundle on the same task writes nothing more."""
    states, written = [], []
    for name, more in (
        ("plain", {}),
        ("filling", {"memory_share": 0}),
        ("shared", {}),
        ("disk", {"memory_share": 0.0}),
    ):
        caplog.clear()
        cache = {} if name == "plain" else {"cache_dir": str(tmp_path / "cache")}
        with caplog.at_level(logging.INFO):
            settings = {**TINY, "steps": 2, **more, **cache, "output_dir": str(tmp_path / name)}
            out = run_bundle(ROOT / "bundles/mean_teacher", **settings)
        states.append(torch.load(out / "last_0001.pt", weights_only=True))
        written.append(caplog.text.count("of them written there now"))
    assert written == [0, 3, 0, 0]
    for state in states[1:]:
        assert state["data"] == states[0]["data"]
        assert_same_state(state["state"], states[0]["state"])
    caplog.clear()
    with caplog.at_level(logging.INFO):
        run_bundle(ROOT / "bundles/supervised", **{**TINY, "steps": 2}, **cache, output_dir=str(tmp_path / "other"))
    assert "from" in caplog.text
    assert "written there now" not in caplog.text


def test_where_a_file_system_keeps_coarse_times_voxels_are_checked_once(tmp_path, monkeypatch):
    exact, checked = os.utime, []
    checksum = cache_module._checksum
    monkeypatch.setattr(os, "utime", lambda path, ns: exact(path, ns=tuple(time // 100 * 100 for time in ns)))
    monkeypatch.setattr(cache_module, "_checksum", lambda file: checked.append(1) or checksum(file))
    scan = Scan(torch.rand(1, 6, 5).half(), None, torch.tensor([True]))
    kept = cache_module.Cache(tmp_path).keep("0" * 64, scan, lambda: scan)
    for _ in range(5):
        assert torch.equal(kept.voxels()[0], scan.image)
    assert len(checked) <= 2  # when it was written, and by who reads it


@pytest.mark.parametrize("slices", [False, True])
def test_what_a_patch_is_cut_from_is_asked_for_before_and_no_more(cases, tmp_path, monkeypatch, slices):
    asked = {}

    def advise(descriptor, start, length, advice):
        assert advice == os.POSIX_FADV_WILLNEED
        asked.setdefault(os.readlink(f"/proc/self/fd/{descriptor}"), []).append((start, length))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    bank = Bank(cases, reading(), slices=slices, storage=on_disk(tmp_path))
    plain = Bank(cases, reading(), slices=slices)
    size = [4] * len(bank.shape(0))
    items = torch.tensor([0, len(bank.items) - 1])
    centres = torch.tensor([[3] * len(size), [0] * len(size)])
    torch.testing.assert_close(bank.crops(items, centres, size), plain.crops(items, centres, size), rtol=0, atol=0)
    assert len(asked) == 2, "a file each"
    # of slices the last one of the last scan; else rows 3 - 2 to 3 + 2 of the first scan's first axis
    scan = bank._scan(2 if slices else 0)
    (image, label) = asked[str(scan.path)]
    arrays = scan.header["arrays"]
    voxels, classes = scan.voxels()
    first, last = (voxels[-1, 0], classes[-1]) if slices else (voxels[0, 1:5], classes[1:5])
    begin = {name: scan.header["start"] + arrays[name][1] for name in ("image", "label")}
    assert image == (begin["image"] + 2 * first.storage_offset() - 2 * voxels.storage_offset(), 2 * first.numel())
    assert label == (begin["label"] + last.storage_offset() - classes.storage_offset(), last.numel())


def test_a_full_cache_is_read_where_nothing_can_be_written_down(cases, tmp_path, monkeypatch):
    """A folder that may only be read, or a full disk: what was found out about the files is found out again the next time."""
    Bank(cases, reading(), storage=on_disk(tmp_path)).load()
    (tmp_path / "cache/contents.jsonl").unlink(missing_ok=True)  # files that were just written are not in it
    (tmp_path / "cache/contents.jsonl").mkdir()  # nothing can be appended to it
    CALLS.clear()
    Bank(cases, reading(), storage=on_disk(tmp_path)).load()
    assert CALLS == []


def test_what_killed_writers_left_goes_after_a_day(tmp_path):
    (tmp_path / "cache/ab").mkdir(parents=True)
    old, new, other = (tmp_path / "cache/ab" / name for name in (".a.scan.12.tmp", ".b.scan.13.tmp", ".c.tmp"))
    for path in (old, new, other):
        path.write_bytes(b"x")
    for path in (old, other):
        os.utime(path, (1e9, 1e9))
    Cache(tmp_path / "cache")
    assert [path.exists() for path in (old, new, other)] == [False, True, True]
