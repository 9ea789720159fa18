"""A read hook makes of a compared file what is used: networks may lie encrypted on the disk, and nowhere else in the clear."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from offramp.bundle import check_bundle, encrypt, open_bundle, pack
from offramp.errors import BundleError, MissingError, UnsupportedError, UsageError
from offramp.export import fuse
from offramp.runtime import build, load, load_static, load_uncalibrated, verify
from offramp.runtime.engines import onnxruntime
from offramp.tests.helpers.bundles import ARCHIVE, refuse

X = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)


def encrypt_file(path):
    aes = pytest.importorskip("cryptography.hazmat.primitives.ciphers.aead", reason="needs cryptography").AESGCM
    nonce = os.urandom(12)
    return nonce + aes(bytes(32)).encrypt(nonce, path.read_bytes(), None)


def decrypt_file(path):
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    content = path.read_bytes()
    return AESGCM(bytes(32)).decrypt(content[:12], content[12:], None)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    plain = open_bundle(shutil.copytree(ARCHIVE, tmp_path_factory.mktemp("encrypted") / "plain.offramp"))
    return plain, encrypt(plain, plain.path.parent / "secret.offramp", encrypt_file)


@pytest.fixture
def plain(shared):
    return shared[0]


@pytest.fixture
def secret(shared, tmp_path):
    return open_bundle(shutil.copytree(shared[1].path, tmp_path / "secret.offramp"))


@pytest.fixture(params=["folder", "packed"])
def path(request, secret, tmp_path):
    return secret.path if request.param == "folder" else pack(secret, tmp_path / "secret.offramp.zip").path


def test_an_encrypted_network_answers_as_the_plain_one_and_needs_no_key_to_be_checked(plain, path):
    check_bundle(path)
    with_key = open_bundle(path, read=decrypt_file)
    for net in (load(path, read=decrypt_file), load(with_key, lazy=True), load_static(with_key)):
        open_plain = load if net.point is not None else load_static
        ours, theirs = net.batch(X), open_plain(plain).batch(X)
        assert (ours.score == theirs.score).all() and (ours.exit == theirs.exit).all()
    assert load(path, read=decrypt_file).point == load(plain).point
    assert all(verification.passed for verification in verify(with_key))


def test_nothing_is_decrypted_onto_the_disk(plain, path, tmp_path, monkeypatch):
    """Large weights, which are copied elsewhere, stay in memory too."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(onnxruntime, "MOST_IN_MEMORY", 10)
    (tmp_path / "temporary").mkdir()
    written, original = [], Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode="r", *a, **k: written.append(mode) or original(self, mode, *a, **k)
    )
    answers = load(path, read=decrypt_file).batch(X)
    assert not any(set(mode) & set("wxa+") for mode in written) and not (tmp_path / "cache").exists()
    monkeypatch.undo()
    assert (answers.score == load(plain).batch(X).score).all()


@pytest.mark.parametrize("what", ["openvino", "building", "fusing"])
def test_what_needs_the_network_as_a_file_is_refused(what, secret, tmp_path):
    with_key = open_bundle(secret.path, read=decrypt_file)
    with pytest.raises(
        MissingError, match="what read= makes of .* is kept in memory alone. (Take|Run it on) cpu"
    ) as refused:
        if what == "openvino":
            load(with_key, "openvino:CPU")
        elif what == "building":
            build(with_key, "openvino:CPU", into_bundle=True)
        else:
            fuse(with_key, tmp_path / "fused.onnx", thresholds=(0.5, 0.5))
    assert not isinstance(refused.value, UnsupportedError) and not (tmp_path / "fused.onnx").exists()


def test_the_hook_gets_only_what_was_compared(secret):
    """Not the file that lies at the path then; and a damaged file is refused before the hook sees it."""
    seen = {}

    def swap_and_read(path):
        file = secret.path / path.relative_to(secret.path)
        compared = file.read_bytes()
        file.write_bytes(b"swapped")
        seen[path.name] = path.read_bytes() == compared
        file.write_bytes(compared)
        return decrypt_file(path)

    load(secret, read=swap_and_read)
    assert set(seen) > {"weights.bin"} and all(seen.values())
    weights = secret.path / "variants/fp32/weights.bin"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    seen.clear()
    refuse(weights, lambda: load(secret, read=swap_and_read), "is damaged")
    assert "weights.bin" not in seen


def test_errors_of_a_hook_and_a_wrong_one_are_named(secret, tmp_path):
    def fail(path):
        raise PermissionError(f"no key for {path.name}")

    with pytest.raises(BundleError, match=r"The function that reads .*\.onnx failed: PermissionError: no key for"):
        load(secret, read=fail)
    with pytest.raises(UsageError, match=r"The function that reads .*\.onnx returned str; it returns the bytes"):
        load(secret, read=lambda path: "text")  # type: ignore[return-value]
    with pytest.raises(UsageError, match="read is a function that takes a path and returns bytes, not 'key'"):
        load(secret.path, read="key")
    with pytest.raises(BundleError, match="ONNX Runtime .* cannot load"):
        load_uncalibrated(secret)  # without the key
    with pytest.raises(UsageError, match="is there. Name a new folder"):
        encrypt(secret, tmp_path, encrypt_file)
    with pytest.raises(BundleError, match="no key for"):
        encrypt(secret, tmp_path / "half", fail)
    assert [file.name for file in tmp_path.iterdir()] == ["secret.offramp"]


def test_a_calibration_that_did_not_fit_fits_no_more_when_it_is_encrypted(plain, tmp_path):
    stale = open_bundle(shutil.copytree(plain.path, tmp_path / "stale.offramp"))
    file = stale.calibrations()[0]
    file.write_text(file.read_text().replace(stale.variant().digest, "0" * 64))
    made = encrypt(stale, tmp_path / "secret", encrypt_file)
    assert made.read_calibration(made.calibrations()[0]).variants["fp32"] == "0" * 64
