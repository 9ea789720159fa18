"""Errors: their attributes, causes, and packages that do not load."""

import pytest

from offramp import errors
from offramp.errors import MissingError, OfframpError, UsageError, causes, printable, quoted, require, unknown_name


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


def test_a_module_of_a_package_that_is_missing_is_named_by_what_can_be_installed():
    with pytest.raises(MissingError, match="The package no_such_package is not installed") as missing:
        require("no_such_package.special", extra="calibrate")
    assert missing.value.package == "no_such_package"


HOSTILE = "\x1b]0;title\x07\x1b[2J\r\x9b31m\u202eevil\u2028\ufeff\udc80"


def test_a_message_neither_steers_a_terminal_nor_fills_a_log():
    for error in (OfframpError(f"before {HOSTILE} after"), unknown_name("point", HOSTILE, [HOSTILE])):
        text = str(error)
        text.encode()
        assert "\\u001b[2J\\u000d\\u009b31m\\u202eevil\\u2028\\ufeff\\udc80" in text
        assert all(character.isprintable() for character in text)
    long = OfframpError(f"In file.json: {'a' * 10**6}. Copy it again.")
    assert len(str(long)) < 4000 and str(long).startswith("In file.json") and str(long).endswith("Copy it again.")
    many = unknown_name("variant", "b" * 10**6, ["c" * 10**6] * 1000)
    assert len(str(many)) < 4000 and str(many).startswith("Unknown variant 'bbb")


def test_lines_and_letters_of_every_script_stay_as_they_are():
    assert printable("Zeile\nכלב, chien, 犬, 🐕") == "Zeile\nכלב, chien, 犬, 🐕"
    assert quoted("two\nlines") == "two\\nlines"


@pytest.mark.parametrize("text", ["a" * 10**6, "\x1b" * 10**6, "\x1b" * 300, "a\n" * 400])
def test_a_message_is_short_however_long_and_strange_the_texts_in_it_are(text):
    assert len(str(UsageError(f"{text} is wrong. Do this."))) <= 600 and len(quoted(text)) <= 160
    assert str(UsageError(f"{text} is wrong. Do this.")).endswith("Do this.")


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
    assert str(unknown_name("operating point", "x", [])) == "Unknown operating point 'x'. Known: none."
