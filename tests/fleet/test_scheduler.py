"""A scheduler is found, or made on this machine."""

import os

import pytest

from offramp.errors import MissingError
from offramp.fleet.scheduler import connect

pytest.importorskip("distributed")


def test_work_runs_in_a_process_of_its_own() -> None:
    with connect() as client:
        assert client.submit(os.getpid).result() != os.getpid()


def test_an_address_where_nobody_listens_is_named(monkeypatch) -> None:
    monkeypatch.setattr("offramp.fleet.scheduler.SECONDS_TO_ANSWER", 0.2)
    with pytest.raises(MissingError, match="tcp://127.0.0.1:9"), connect("tcp://127.0.0.1:9"):
        pass
