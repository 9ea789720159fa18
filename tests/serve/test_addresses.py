"""The server against requests that schemathesis makes of its own description of its addresses."""

import subprocess
import sys
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from offramp.runtime import load_uncalibrated
from offramp.serve import ServedModel
from offramp.tests.helpers.bundles import ARCHIVE
from offramp.tests.helpers.servers import running

TOKEN = "a-token-of-this-test"
UNKNOWABLE = [positive_data_acceptance]
"""That data has as many numbers as its shape says, and that names and shapes are the model's, is beyond JSON Schema."""


@pytest.fixture(scope="module")
def url():
    model = ServedModel("dense", load_uncalibrated(ARCHIVE, logits=True))
    with running(model, token=TOKEN) as (port, _):
        yield f"http://127.0.0.1:{port}/openapi.json"


def test_requests_made_of_the_description_get_what_it_says(url):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    found = schemathesis.openapi.from_url(url, headers=headers).get_all_operations()
    operations = {operation.label: operation for operation in (result.ok() for result in found)}
    assert len(operations) == 10
    seen = set()
    for label, operation in operations.items():
        if "version" in label:  # which are the same, and to make data takes most of the time
            continue
        modes = [schemathesis.GenerationMode.POSITIVE]
        modes += [schemathesis.GenerationMode.NEGATIVE] if label.startswith("POST") else []
        for mode in modes:

            @settings(max_examples=5, derandomize=True, database=None, deadline=None, suppress_health_check=HealthCheck)
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case):
                response = case.call_and_validate(headers=headers, excluded_checks=UNKNOWABLE)
                seen.add(response.status_code)

            check()
    assert {200, 400} <= seen <= {200, 400, 401, 404, 405, 415}


@pytest.mark.slow
def test_no_phase_of_schemathesis_finds_a_fault(url, tmp_path):
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("schemathesis"), "run", url, "--header", f"Authorization: Bearer {TOKEN}"),
            *("--exclude-checks", "positive_data_acceptance", "--max-examples", "50", "--seed", "0"),
            *("--mode", "all", "--generation-database", "none"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
