"""What is made of a bundle is made of the bytes that were compared with their hashes: no file that is swapped afterwards."""

import contextlib

import pytest

from offramp.bundle import Bundle, check_bundle
from offramp.export import fuse, keep, quantize
from offramp.runtime import verify


@contextlib.contextmanager
def swapping(bundle):
    """Have each file of a bundle there only while it is compared with its hash, and another one at any other time."""
    folder = bundle.path / bundle.variant().folder
    honest = {path: path.read_bytes() for path in folder.iterdir()}

    def write(make):
        for path, content in honest.items():
            path.write_bytes(make(content))

    def swap_after(check):
        def checked(*arguments):
            write(bytes)
            try:
                return check(*arguments)
            finally:
                write(lambda content: bytes(len(content)))

        return checked

    with pytest.MonkeyPatch.context() as patch:
        for name in ("file", "read", "copy"):
            patch.setattr(Bundle, name, swap_after(getattr(Bundle, name)))
        yield
    write(bytes)


@pytest.mark.parametrize("make", [lambda path: keep(path, [0, 2]), lambda path: quantize(path, to="fp16")])
def test_a_new_variant_is_made_of_what_was_checked(dense, make):
    with swapping(dense):
        make(dense.path)
    assert all(verification.passed for verification in verify(check_bundle(dense.path)))


def test_a_fused_file_is_made_of_what_was_checked(dense, tmp_path):
    with swapping(dense):
        fuse(dense, tmp_path / "one.onnx", thresholds=[0.5, 0.5])  # which compares it with the golden samples
