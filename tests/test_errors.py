"""Errors: their attributes, causes, and packages that do not load."""

import pytest

from offramp import errors
from offramp.errors import MissingError, OfframpError, UsageError, causes, require, unknown_name


def test_the_causes_of_an_error_end_where_it_is_its_own():
    deep, error = ValueError("deep"), ValueError("of itself")
    error.__cause__ = error
    assert list(causes(error)) == [error]
    error.__cause__ = deep
    assert list(causes(error)) == [error, deep]


@pytest.mark.parametrize(
    "line", ["raise OSError('libcudart.so: no such file')", "raise ModuleNotFoundError('no such file')"]
)
def test_a_package_that_does_not_load_is_named_with_the_reason(tmp_path, monkeypatch, line):
    (tmp_path / "broken_package.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingError, match="broken_package is installed but does not import: .*no such file"):
        require("broken_package", extra="export")


def test_a_missing_package_is_named_for_programs_too():
    with pytest.raises(MissingError, match="pip install 'offramp\\[export\\]'") as missing:
        require("no_such_package", extra="export")
    assert (missing.value.package, missing.value.extra, missing.value.path) == ("no_such_package", "export", None)


def test_every_error_has_an_exit_code_and_empty_attributes():
    kinds = [kind for name in errors.__all__ if isinstance(kind := getattr(errors, name), type)]
    for kind in (kind for kind in kinds if issubclass(kind, OfframpError)):
        error = kind("words", path="some/file", nodes=["a", "b"])
        assert str(error) == "words" and 1 <= kind.exit_code <= 5
        assert error.nodes == ("a", "b") and error.path.name == "file" and error.device is error.stage is None


def test_an_unknown_name_proposes_the_nearest():
    error = unknown_name("variant", "int9", ["fp32", "int8"])
    assert isinstance(error, UsageError)
    assert str(error) == "Unknown variant 'int9'. Did you mean 'int8'? Known: fp32, int8."
