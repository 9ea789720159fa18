"""The page on what fleets cost shows what the script reckons."""

from pathlib import Path

import pytest

pytest.importorskip("distributed")

PAGE = Path(__file__).parents[2] / "docs/fleets.md"


def test_the_page_shows_the_tables_of_the_script():
    import fleet_costs

    text = PAGE.read_text()
    for row in (*fleet_costs.calibrating(), *fleet_costs.auditing()):
        assert f"| {' | '.join(row)} |" in text
