"""The promises of distribution/archive.py and contents.py: a refused archive leaves nothing, an earlier bundle stays."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from bundle_server import NAME, files, list_sums, pack, publish, tree, weights
from packaging.version import Version

from custom.errors import UserError
from distribution import archive
from distribution.archive import judge, unpack
from distribution.contents import check_weights
from distribution.download import download


@pytest.fixture
def attack(tmp_path, monkeypatch):
    """``attack(make)``: publish what ``make(path)`` writes as version 0.2.0, with its true SHA-256; returns the refusal.

    Version 0.1.0 is installed before; that nothing at all has changed is asserted here.
    """
    dist, to = tmp_path / "dist", tmp_path / "bundles/to"
    publish(dist, "0.1.0")
    download(NAME, dist.as_uri(), to)
    (to / NAME / "data").mkdir()
    (to / NAME / "data/mine").write_text("mine")
    (tmp_path / "bundles/beside").write_text("what a path with .. would reach")

    def go(make) -> str:
        make(dist / f"{NAME}_v0.2.0.zip")
        list_sums(dist)
        before = tree(tmp_path)
        with pytest.raises(UserError) as error:
            download(NAME, dist.as_uri(), to)
        assert tree(tmp_path) == before
        return str(error.value)

    return go


def entry(name: str, *, mode: int = 0, flags: int = 0, system: int = 3) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.flag_bits = flags
    info.create_system = system
    info.header_offset = 0
    return info


def good_with(*more: tuple[zipfile.ZipInfo | str, bytes]):
    """An archive that would be accepted without these entries."""

    def make(path: Path) -> None:
        pack(path, files("0.2.0"))
        with zipfile.ZipFile(path, "a") as file:
            for info, data in more:
                file.writestr(info, data)

    return make


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (f"{NAME}/../../beside", "a path that leaves the folder"),
        ("../beside", "a path that leaves the folder"),
        (f"{NAME}/a/../../../x", "a path that leaves the folder"),
        ("/tmp/x", "an absolute path, a drive or a backslash"),
        (f"//{NAME}/x", "an absolute path, a drive or a backslash"),
        ("C:/x", "an absolute path, a drive or a backslash"),
        (f"{NAME}/C:x", "an absolute path, a drive or a backslash"),
        (f"{NAME}\\..\\..\\x", "an absolute path, a drive or a backslash"),
        (f"{NAME}/scripts/./x", "a name of other characters"),
        (f"{NAME}//x", "a name of other characters"),
        (f"{NAME}/x.", "a name of other characters"),
        (f"{NAME}/a\nb", "a name of other characters"),
        (f"{NAME}/\u202etp.exe", "a name of other characters"),
        (f"{NAME}/{'a' * 200}", "longer than 200"),
        ("elsewhere/x", f"outside of the one top folder {NAME}/"),
        ("loose", f"outside of the one top folder {NAME}/"),
        (f"{NAME}", f"outside of the one top folder {NAME}/"),
        (f"{NAME.upper()}/x", f"outside of the one top folder {NAME}/"),
        (f"{NAME}/data/mine", "data and eval are the user's folders"),
        (f"{NAME}/EVAL/x", "data and eval are the user's folders"),
    ],
)
@pytest.mark.fault(
    "11", "names that lead elsewhere: .., absolute, drive, backslash, another top folder, the user's data"
)
def test_a_name_that_leads_elsewhere_is_refused(attack, name, why):
    text = attack(good_with((name, b"evil")))
    assert text.startswith(f"{NAME}_v0.2.0.zip: entry {name!r}: ")
    assert why in text
    assert text.endswith("Nothing was unpacked.")


@pytest.mark.fault("11", "a name that ends at a zero byte")
def test_a_name_with_a_zero_byte_is_refused(attack):
    def make(path: Path) -> None:
        good_with((f"{NAME}/aXevil", b""))(path)
        path.write_bytes(path.read_bytes().replace(b"aXevil", b"a\0evil"))

    assert "a name of other characters" in attack(make)


@pytest.mark.fault("11", "a second name in an extra field, which newer versions of Python prefer")
def test_a_name_that_python_read_elsewhere_is_refused():
    info = zipfile.ZipInfo(f"{NAME}/harmless")
    info.filename = f"{NAME}/../evil"
    with pytest.raises(UserError, match="a name of other characters"):
        judge([info], NAME, 100)


@pytest.mark.fault("11", "links and special files")
@pytest.mark.parametrize("system", [0, 3])
@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR])
def test_a_link_or_special_file_is_refused(attack, kind, system):
    text = attack(good_with((entry(f"{NAME}/x", mode=kind | 0o777, system=system), b"/etc/passwd")))
    assert ("a link or special file" if kind == stat.S_IFLNK else "a special file") in text


@pytest.mark.fault("11", "two entries of one name, by letter case too")
@pytest.mark.parametrize("name", ["scripts/__init__.py", "Scripts/__INIT__.py", "docs/README.MD"])
def test_two_entries_of_one_place_are_refused(attack, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of what is written here
        assert "a second one of this name" in attack(good_with((f"{NAME}/{name}", b"evil")))


@pytest.mark.fault("11", "a file that is a folder too")
def test_a_file_that_others_lie_in_is_refused(attack):
    assert "a file that other entries lie in" in attack(good_with((f"{NAME}/x", b""), (f"{NAME}/X/y", b"")))


@pytest.mark.fault("11", "bomb: 70 MB of zeros")
def test_an_archive_that_unpacks_to_very_much_more_is_refused(attack):
    def make(path: Path) -> None:
        small = {name: data for name, data in files("0.2.0").items() if not name.startswith("ballast")}
        with zipfile.ZipFile(pack(path, small), "a", zipfile.ZIP_DEFLATED) as file:
            file.writestr(f"{NAME}/zeros", bytes(70_000_000))

    assert re.search(
        r"\d+ bytes that unpack to 700\d+, at most 67108864 are expected. Nothing was unpacked.", attack(make)
    )


@pytest.mark.fault("11", "bomb whose header promises little")
def test_a_bomb_with_a_lying_header_is_cut_at_what_it_declares(attack, monkeypatch):
    """The header says 10 bytes, the stream holds a million: no more than 10 are ever written."""
    written: list[int] = []
    copy = archive._copy

    def watched(source, target, info):
        try:
            copy(source, target, info)
        finally:
            written.append(target.tell())

    monkeypatch.setattr(archive, "_copy", watched)
    assert "truncated or damaged: Bad CRC-32" in attack(_declaring(10))
    assert written[-1] <= 10


@pytest.mark.fault("11", "header that promises more than there is")
def test_an_entry_shorter_than_declared_is_refused(attack):
    assert "zeros': 1000000 bytes, 2000000 declared. Nothing of it was kept." in attack(_declaring(2_000_000))


def _declaring(size: int):
    """An archive with a million zeros whose two headers both declare ``size`` instead."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(f"{NAME}/zeros", bytes(1_000_000))
        true = struct.pack("<L", 1_000_000)
        data = path.read_bytes()
        assert data.count(true) == 2
        path.write_bytes(data.replace(true, struct.pack("<L", size)))

    return make


@pytest.mark.fault("11", "more entries than a bundle has")
def test_an_entry_outside_of_the_archive_is_refused(attack):
    def make(path: Path) -> None:
        pack(path, files("0.2.0"))
        content = bytearray(path.read_bytes())
        at = content.rindex(b"PK\x01\x02") + 42  # where the last entry's local header begins, in the directory
        content[at : at + 4] = struct.pack("<I", 0x7FFFFFF0)
        path.write_bytes(content)

    assert "its data lie outside of the archive" in attack(make)


def test_very_many_entries_are_refused(attack, monkeypatch):
    monkeypatch.setattr(archive, "MAX_ENTRIES", 50)
    assert "entries, at most 50 are a bundle" in attack(good_with(*((f"{NAME}/{i}", b"") for i in range(50))))


@pytest.mark.fault("11", "encrypted entry")
def test_an_encrypted_entry_is_refused(attack):
    def make(path: Path) -> None:
        good_with((f"{NAME}/secret", b"x"))(path)
        data = bytearray(path.read_bytes())
        central = data.rindex(b"PK\x01\x02")
        data[central + 8] |= 1
        path.write_bytes(data)

    assert attack(make).endswith(f"entry '{NAME}/secret': encrypted. Nothing was unpacked.")


@pytest.mark.fault("11", "compression without a limit on memory")
def test_another_compression_is_refused(attack):
    info = entry(f"{NAME}/x")
    info.compress_type = zipfile.ZIP_LZMA
    assert "compression method 14" in attack(good_with((info, b"x")))


@pytest.mark.fault("11", "truncated at 1, 50 and 99 %; no zip at all; one bit")
@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_archive_is_refused(attack, part):
    def make(path: Path) -> None:
        data = pack(path, files("0.2.0")).read_bytes()
        path.write_bytes(data[: int(len(data) * part)])

    assert "is truncated or damaged" in attack(make)


@pytest.mark.fault("11", "one bit of one entry")
def test_a_flipped_bit_inside_is_refused(attack):
    def make(path: Path) -> None:
        data = bytearray(pack(path, files("0.2.0")).read_bytes())
        data[len(data) // 2] ^= 1  # in the ballast
        path.write_bytes(data)

    assert re.search("is truncated or damaged: (Bad CRC-32|Error -3)", attack(make))


@pytest.mark.fault("11", "name in the directory, another before the data")
def test_two_names_of_one_entry_are_refused(attack):
    def make(path: Path) -> None:
        good_with((f"{NAME}/AAAA", b"x"))(path)
        path.write_bytes(path.read_bytes().replace(b"AAAA", b"../B", 1))

    assert "is truncated or damaged: File name in directory" in attack(make)


def test_a_large_archive_may_unpack_to_a_hundred_times_its_size():
    info = entry(f"{NAME}/x")
    info.file_size = 100 * 1_000_000
    assert judge([info], NAME, 1_000_000) == [info]
    with pytest.raises(UserError, match="at most 99999900 are expected"):
        judge([info], NAME, 999_999)


def test_a_good_archive_comes_out_as_it_went_in(tmp_path):
    content = {**files("0.2.0"), "docs/a b+c-d_e.f.md": b"x", ".hidden": b""}
    unpack(pack(tmp_path / "a.zip", content), NAME, tmp_path / "out")
    assert {name: data for name, data in tree(tmp_path / "out").items() if data is not None} == content


def test_modes_of_the_archive_are_not_taken_over(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(entry(f"{NAME}/x", mode=stat.S_IFREG | 0o6777), b"x")
    unpack(tmp_path / "a.zip", NAME, tmp_path / "out")
    assert (tmp_path / "out/x").stat().st_mode & 0o7111 == 0


# what is inside


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def saved(content: object, **options) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


@pytest.mark.fault("10", "a payload in model.pt, as torch.save and as a bare pickle; in another file of weights")
@pytest.mark.parametrize("name", ["models/model.pt", "models/student.pt", "models/x.PTH", "extra/a.pkl", "a.ckpt"])
@pytest.mark.parametrize("form", ["zip", "old", "bare"])
def test_a_malicious_pickle_is_refused_and_not_run(attack, tmp_path, name, form):
    import pickle

    marker = tmp_path / "marker"
    evil = {"weight": torch.zeros(1), "x": Payload(marker)}
    data = pickle.dumps(evil) if form == "bare" else saved(evil, _use_new_zipfile_serialization=form == "zip")
    text = attack(lambda path: pack(path, {**files("0.2.0"), name: data}))
    assert f"{name}: not a plain state dict: " in text
    assert "Nothing of it was run, nothing was installed." in text
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([torch.zeros(1)], "other things than tensors by name"),
        ({"epoch": 3}, "other things than tensors by name"),
        (torch.nn.Linear(1, 1), "refuses it"),
    ],
)
@pytest.mark.fault("10", "a whole model, or a checkpoint, in place of a state dict")
def test_weights_are_a_state_dict_and_nothing_else(attack, content, why):
    assert why in attack(lambda path: pack(path, {**files("0.2.0"), "models/model.pt": saved(content)}))


@pytest.mark.fault("11", "bomb inside of a file of weights")
def test_weights_that_are_compressed_inside_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(io.BytesIO(weights())) as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    with pytest.raises(UserError, match="compressed inside"):
        check_weights(path, "models/model.pt")


@pytest.mark.fault("9", "half a model.pt inside")
def test_truncated_weights_are_refused(attack):
    data = weights()
    text = attack(lambda path: pack(path, {**files("0.2.0"), "models/model.pt": data[: len(data) // 2]}))
    assert "models/model.pt: not a plain state dict: not a file of torch.save" in text


@pytest.mark.fault("9", "archive of another version under this name")
def test_the_version_inside_is_the_one_that_was_promised(attack):
    text = attack(lambda path: pack(path, files("0.3.0")))
    assert text == f"{NAME}_v0.2.0.zip: configs/metadata.json: version 0.3.0, expected 0.2.0. Nothing was installed."


@pytest.mark.parametrize("metadata", [None, b"", b"[]", b"{}", b'{"version": 1}', b'{"version": "x"}', b"\xff"])
def test_an_archive_without_a_version_is_refused(attack, metadata):
    content = {name: data for name, data in files("0.2.0").items() if name != "configs/metadata.json"}
    more = {} if metadata is None else {"configs/metadata.json": metadata}
    assert "configs/metadata.json" in attack(lambda path: pack(path, {**content, **more}))


@pytest.mark.parametrize("name", ["large_files.yml", "large_files.yaml", "large_files.json"])
@pytest.mark.fault("9", "weights to be fetched later, not covered by the hash")
def test_large_files_to_be_fetched_later_are_refused(attack, name):
    text = attack(lambda path: pack(path, {**files("0.2.0"), name: b"large_files: []"}))
    assert f"{name}: files to be fetched later are not covered by the SHA-256" in text


def test_after_a_refusal_a_good_archive_is_taken(tmp_path):
    dist, to = tmp_path / "dist", tmp_path / "to"
    dist.mkdir()
    good_with(("../x", b""))(dist / f"{NAME}_v0.2.0.zip")
    list_sums(dist)
    with pytest.raises(UserError):
        download(NAME, dist.as_uri(), to)
    publish(dist, "0.2.0")
    assert download(NAME, dist.as_uri(), to, Version("0.2.0")) == to / NAME
