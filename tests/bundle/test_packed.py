"""Packed bundles: what `pack` writes is read in place, and a file of any other form is refused before anything is read of it."""

import gc
import hashlib
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from offramp.bundle import check_bundle, open_bundle, pack, packed, read_calibration, upgrade
from offramp.bundle.packed import ALIGNED_BYTES, CENTRAL, END, END_64, LOCAL
from offramp.calibrate import calibrate, calibrate_reuse
from offramp.errors import BundleError, MissingError, OfframpError, UsageError
from offramp.export import keep, quantize
from offramp.runtime import build, load, load_static, load_uncalibrated, verify
from offramp.tests.helpers.bundles import ARCHIVE, copy_archive, refuse
from offramp.tests.helpers.command import offramp

DEVICE = "openvino:CPU"


@pytest.fixture
def bundle(tmp_path):
    """A bundle with a calibration, and things beside it that are not its own."""
    path = shutil.copytree(ARCHIVE, tmp_path / "dense.offramp")
    (path / "calibrations/default.json.before").write_text("the one before")
    (path / "calibrations/asked.ledger").write_text("{}")
    (path / "variants/fp32/unlisted.bin").write_text("of a process that was killed")
    (path / ".DS_Store").write_text("of a Mac")
    return open_bundle(path)


@pytest.fixture
def file(bundle, tmp_path):
    """The file of the packed bundle."""
    return pack(bundle, tmp_path / "dense.offramp.zip").path


def test_equal_bundles_make_equal_files(bundle, file, tmp_path):
    other = shutil.copytree(bundle.path, tmp_path / "later/dense.offramp")
    for path in other.rglob("*"):
        os.utime(path, (1e9, 1e9))
        path.chmod(0o755)
    assert pack(other, tmp_path / "other.zip").path.read_bytes() == file.read_bytes()
    assert pack(bundle, file).path.read_bytes() == file.read_bytes()  # in place of itself


def test_the_form_stays_what_it_is(tmp_path):
    """Products hold such files, and compare them byte by byte."""
    own = shutil.copytree(ARCHIVE, tmp_path / "dense.offramp")  # which is locked while it is packed
    content = pack(own, tmp_path / "dense.zip").path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == "3c2ed7e241ad3acf2fe2290f870d83c400d6abb3528985a260d86e8df1054596"


def test_any_program_for_zip_files_gets_the_bundle_back(bundle, file, tmp_path):
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        members = archive.infolist()
        archive.extractall(tmp_path / "again.offramp")
    assert {member.compress_type for member in members} == {zipfile.ZIP_STORED}
    begins = [member.header_offset + LOCAL.size + len(member.filename) for member in members]
    content = file.read_bytes()
    for member, at in zip(members, begins, strict=True):
        (extra,) = struct.unpack_from("<H", content, member.header_offset + LOCAL.size - 2)
        assert (at + extra) % ALIGNED_BYTES == 0
    again = check_bundle(tmp_path / "again.offramp")
    assert again.manifest == bundle.manifest
    names = {path.relative_to(again.path).as_posix() for path in again.path.rglob("*") if path.is_file()}
    listed = {f"{variant.folder}/{name}" for variant in bundle.manifest.variants for name in variant.files}
    assert names == {"manifest.json", "calibrations/default.json", "calibrations/asked.ledger", *listed}


def test_a_packed_bundle_runs_as_the_folder_does(bundle, file, tmp_path):
    x = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    before = set(tmp_path.rglob("*"))
    for open_net in (load, load_uncalibrated, load_static, lambda path: load(path, lazy=True)):
        ours, theirs = open_net(file).batch(x), open_net(bundle.path).batch(x)
        assert (ours.score == theirs.score).all() and (ours.exit == theirs.exit).all()
    assert all(verification.passed for verification in verify(file))
    assert set(tmp_path.rglob("*")) == before
    (path,) = open_bundle(file).calibrations()
    assert read_calibration(path) == read_calibration(bundle.calibrations()[0])
    assert load(file, calibration=path).point == load(file).point


@pytest.mark.parametrize("name", ["net.pt", "net.onnx", "net.npz"])
def test_a_packed_bundle_may_have_any_name(name, file, tmp_path):
    named = file.rename(tmp_path / name)
    assert open_bundle(named).packed is not None


def test_builds_are_taken_from_a_packed_bundle(tmp_path):
    build(copy_archive(tmp_path), DEVICE, into_bundle=True)
    file = pack(tmp_path / "dense.offramp", tmp_path / "b.zip").path
    net = load_uncalibrated(file, DEVICE, lazy=True)
    assert {stage.built for stage in net.provenance.stages} == {"bundle"}
    assert net(np.zeros(16, np.float32)).label in range(5)
    assert list(open_bundle(file).builds()) == ["openvino-CPU/fp32"]


def test_a_bundle_that_was_opened_stays_the_one_it_was(bundle, file, tmp_path):
    """A file moved in the place of a packed bundle is another file: what is open is read on."""
    opened = open_bundle(file)
    net = load(opened, lazy=True, release_after_s=0.01)
    (tmp_path / "new").write_bytes(b"nothing")
    (tmp_path / "new").replace(file)
    assert net(np.zeros(16, np.float32)).label in range(5)
    assert opened.read(opened.variant(), "weights.bin") == bundle.read(bundle.variant(), "weights.bin")


def test_a_bundle_goes_to_another_process_as_a_folder_does(bundle, file):
    for each in (bundle, open_bundle(file)):
        other = pickle.loads(pickle.dumps(each))
        assert other.manifest == each.manifest and load(other).exits == load(each).exits


def test_the_file_is_closed_with_the_last_that_reads_it(file):
    def count():
        gc.collect()
        return sum(os.path.realpath(link) == str(file) for link in Path("/proc/self/fd").iterdir())

    net = load(file)
    assert count() == 0
    opened = open_bundle(file)
    assert count() == 1
    del net, opened
    assert count() == 0


WRITERS = {
    "keep": lambda path: keep(path, [0, -1]),
    "quantize": lambda path: quantize(path, np.zeros((40, 16), np.float32)),
    "calibrate": lambda path: calibrate(path, (np.arange(6400, dtype=np.float32).reshape(400, 16), np.arange(400) % 5)),
    "reuse": lambda path: calibrate_reuse(
        path, (np.arange(640, dtype=np.float32).reshape(40, 16), None), np.arange(40) // 4, max_disagreement=0.3
    ),
    "upgrade": upgrade,
    "build": lambda path: build(path, DEVICE, into_bundle=True),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_would_be_written_into_a_packed_bundle_is_refused(write, file):
    before = file.read_bytes()
    error = refuse(file, lambda: write(file), f"python -m zipfile -e {file} FOLDER", UsageError)
    assert len(str(error)) < 400 and file.read_bytes() == before


def test_a_link_to_a_bundle_is_packed_and_one_to_a_folder_in_it_is_not_left_out(bundle, file, tmp_path):
    (tmp_path / "current").symlink_to(bundle.path)
    assert pack(tmp_path / "current", tmp_path / "x.zip").path.read_bytes() == file.read_bytes()
    (bundle.path / "calibrations").rename(bundle.path / "kept")
    (bundle.path / "calibrations").symlink_to("kept")
    with pytest.raises(UsageError, match="calibrations is a link. Pack a copy"):
        pack(bundle, tmp_path / "x.zip")


def test_pack_harms_no_other_file(bundle, file, tmp_path):
    (tmp_path / "notes").write_text("mine")
    refuse(tmp_path / "notes", lambda: pack(bundle, tmp_path / "notes"), "is there and is no packed bundle", UsageError)
    refuse(bundle.path / "x.zip", lambda: pack(bundle, bundle.path / "x.zip"), "lies in the bundle", UsageError)
    refuse(file, lambda: pack(file, tmp_path / "y.zip"), "is packed already", UsageError)
    (bundle.path / "calibrations/of my board.json").write_text("{}")
    with pytest.raises(UsageError, match="Rename it"):
        pack(bundle, tmp_path / "y.zip")
    (bundle.path / "calibrations/of my board.json").rename(bundle.path / "calibrations/board.json")
    (bundle.path / "calibrations/board.json").unlink()
    (bundle.path / "calibrations/board.json").symlink_to("/etc/hostname")
    with pytest.raises(BundleError, match="leads outside the bundle"):
        pack(bundle, tmp_path / "y.zip")
    (bundle.path / "calibrations/board.json").unlink()
    content = bytearray((bundle.path / "variants/fp32/weights.bin").read_bytes())
    content[0] ^= 1
    (bundle.path / "variants/fp32/weights.bin").write_bytes(content)
    with pytest.raises(BundleError, match="is damaged"):
        pack(bundle, tmp_path / "y.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense.offramp", "dense.offramp.zip", "notes"]


def test_the_command_packs_and_shows_what_it_packed(bundle, tmp_path):
    file = tmp_path / "x.offramp.zip"
    done = offramp("pack", bundle.path, "-o", file)
    assert done.returncode == 0 and str(file) in done.stdout
    assert offramp("inspect", file).returncode == offramp("verify", file).returncode == 0


# What is no packed bundle. Each test changes one thing that Python's own reader of ZIP files would let pass, or fall for.


def entries(content):
    """Return where the entries of the directory begin, and where the end does."""
    end = len(content) - END.size
    at, found = END.unpack_from(content, end)[6], []
    while at < end:
        found.append(at)
        facts = CENTRAL.unpack_from(content, at)
        at += CENTRAL.size + facts[10] + facts[11] + facts[12]
    return found, end


def change(content, at, form, value):
    struct.pack_into(form, content, at, value)
    return content


def in_both(content, entry, offset, form, value):
    """Change a field of an entry, and of the header that it leads to, where it stands two bytes earlier."""
    begin = CENTRAL.unpack_from(content, entry)[16]
    change(content, begin + offset - 2, form, value)
    return change(content, entry + offset, form, value)


def renamed(content, old, new):
    assert len(old) == len(new) and content.count(old) == 2
    return content.replace(old, new)


def with_compressed_member(content):
    entry = entries(content)[0][0]
    return in_both(content, entry, 10, "<H", 8)


def with_bomb(content):
    """A member that says it holds 2^40 bytes, compressed to few."""
    entry = entries(content)[0][0]
    return in_both(with_compressed_member(content), entry, 24, "<L", 2**32 - 1)


def with_overlap(content):
    """Two entries that lead to the same content, as bombs have thousands."""
    first, second = entries(content)[0][:2]
    return change(content, second + 42, "<L", CENTRAL.unpack_from(content, first)[16])


def with_size_beyond_the_end(content):
    entry = entries(content)[0][-1]
    return in_both(in_both(content, entry, 24, "<L", 2**31), entry, 20, "<L", 2**31)


def with_64_bits_that_lie(content):
    """An end whose numbers stand in 64 bits, and are none that fit."""
    end = len(content) - END.size
    _, size, at = END.unpack_from(content, end)[4:7]
    large = END_64.pack(b"PK\6\6", END_64.size - 12, 45, 45, 0, 0, 2**60, 2**60, size, at)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    return content[:end] + large + locator + change(content[end:], 16, "<L", 2**32 - 1)


HOSTILE = {
    "compressed": (with_compressed_member, "calibrations/asked.ledger is compressed"),
    "bomb": (with_bomb, "is compressed"),
    "encrypted": (lambda c: in_both(c, entries(c)[0][1], 8, "<H", 1), "calibrations/default.json is encrypted"),
    "duplicate": (lambda c: renamed(c, b"variants/int8/stage1.onnx", b"variants/int8/stage0.onnx"), "is there twice"),
    "absolute": (lambda c: renamed(c, b"variants/fp32/stage0.onnx", b"/ariants/fp32/stage0.onnx"), "is no name of a file"),
    "upwards": (lambda c: renamed(c, b"variants/fp32/stage0.onnx", b"variants/../../tage0.onnx"), "is no name of a file"),
    "backslash": (lambda c: renamed(c, b"variants/fp32/stage0.onnx", b"variants\\fp32/stage0.onnx"), "is no name of a file"),
    "control characters": (lambda c: renamed(c, b"asked.ledger", b"as\x1b[2Jledger"), r"u001b\[2Jledger' is no name"),
    "overlap": (with_overlap, "describes calibrations/default.json otherwise"),
    "size": (with_size_beyond_the_end, "reaches into its directory"),
    "64 bits": (with_64_bits_that_lie, "its end and its directory do not agree"),
    "trailing": (lambda c: c + b"PK", "it does not end as it should"),
    "second directory": (lambda c: c + c[entries(c)[0][0] :], "do not agree"),
    "comment": (lambda c: change(c, len(c) - 2, "<H", 4) + b"note", "it does not end as it should"),
    "cut off": (lambda c: c[:-1000], "it does not end as it should"),
    "begun": (lambda c: c[:10], "it does not end as it should"),
    "other name before": (lambda c: change(c, LOCAL.size, "<B", ord("b")), "what stands before calibrations/asked.ledger"),
    "other size before": (lambda c: change(c, 18, "<L", 7), "what stands before calibrations/asked.ledger"),
    "hidden before": (lambda c: change(c, ALIGNED_BYTES - 1, "<B", 1), "what stands before calibrations/asked.ledger"),
    "permissions": (lambda c: change(c, entries(c)[0][0] + 38, "<L", 0o120777 << 16), "otherwise than offramp pack does"),
    "more entries": (lambda c: change(change(c, len(c) - 12, "<H", 9), len(c) - 14, "<H", 9), "do not agree"),
    "directory elsewhere": (lambda c: change(c, len(c) - 6, "<L", 0), "do not agree"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_file_of_another_form_is_refused(make, words, file, monkeypatch):
    file.write_bytes(make(bytearray(file.read_bytes())))
    most, read_at = [0], packed.PackedFile.read_at
    monkeypatch.setattr(packed.PackedFile, "read_at", lambda self, at, n: most.append(n) or read_at(self, at, n))
    error = refuse(file, lambda: open_bundle(file), words)
    assert len(str(error)) < 600 and str(error).count(". ") == 1 and max(most) <= max(file.stat().st_size, END.size)


def test_a_file_that_any_other_program_made_is_refused(bundle, tmp_path):
    file = shutil.make_archive(tmp_path / "other", "zip", bundle.path)
    with pytest.raises(BundleError, match="is not a packed bundle: .* make it anew: offramp pack"):
        open_bundle(file)
    (tmp_path / "none").write_bytes(b"PK\5\6" + bytes(18))
    with pytest.raises(
        BundleError, match="is not an offramp bundle: a bundle is a folder .*, or the file that offramp pack"
    ):
        open_bundle(tmp_path / "none")


def test_content_that_was_changed_is_found_by_its_hash(file):
    content = bytearray(file.read_bytes())
    content[content.index(open_bundle(file).read(open_bundle(file).variant(), "weights.bin"))] ^= 1
    file.write_bytes(content)
    refuse(file / "variants/fp32/weights.bin", lambda: load(file), "is damaged")


def test_a_file_that_becomes_shorter_while_it_is_open_does_not_crash_the_reader(file):
    opened = open_bundle(file)
    os.truncate(file, 100)
    refuse(file / "variants/fp32/weights.bin", lambda: opened.read(opened.variant(), "weights.bin"), "is damaged")


@pytest.mark.parametrize("seed", range(3))
def test_any_byte_that_is_changed_is_found_or_changes_nothing(bundle, file, seed):
    """But for calibrations and what they remember, which no hash covers, in a folder neither."""
    content, rng = file.read_bytes(), np.random.default_rng(seed)
    for _ in range(40):
        changed = bytearray(content)
        changed[rng.integers(2 * ALIGNED_BYTES, len(content))] ^= 1 << rng.integers(8)
        file.write_bytes(changed)
        try:
            manifest = check_bundle(file).manifest
        except OfframpError as error:
            assert isinstance(error, (BundleError, MissingError)) and len(str(error)) < 600
        else:
            assert manifest == bundle.manifest or manifest.network != bundle.manifest.network


def test_numbers_that_need_64_bits_are_written_as_other_programs_read_them(tmp_path, monkeypatch):
    """With the border put where small files cross it; the file of holes is too large for memory."""
    from offramp.bundle.packed import PackedFile, PackedMember, describe_member, end_of_members

    path, members, directory, at = tmp_path / "large.zip", [("a", 5 << 30), ("b", 3), ("c", 5 << 30)], b"", 0
    with path.open("wb") as out:
        for name, size in members:
            header, entry = describe_member(at, PackedMember(name, size, zlib.crc32(b"abc") if size == 3 else 0))
            out.seek(at)
            out.write(header + (b"abc" if size == 3 else b""))
            directory, at = directory + entry, at + len(header) + size
        out.seek(at)
        out.write(directory + end_of_members(3, at, len(directory)))
    with zipfile.ZipFile(path) as archive:
        assert [(member.filename, member.file_size) for member in archive.infolist()] == members
        assert archive.read("b") == b"abc"
    with path.open("rb", buffering=0) as file:
        opened = PackedFile(path, file)
    assert [opened.find_size(name) for name, _ in members] == [size for _, size in members]
    assert opened.open("b").read() == b"abc"
