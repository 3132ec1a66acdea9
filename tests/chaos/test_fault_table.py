"""The scenarios of `make faults`, with few jobs and one strike each."""

from __future__ import annotations

import pytest
from faults.catalogue import FAMILIES
from faults.scenario import Family
from faults.stage import QUICK

pytestmark = pytest.mark.chaos


@pytest.mark.timeout(300)  # a family has up to six scenarios, and processes that load torch
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_promises_hold_under(family: Family) -> None:
    with family.opened(QUICK) as stage:
        rows = [scenario.run(stage) for scenario in family.scenarios]
    assert {row.name: row.problems() for row in rows if row.problems()} == {}
    assert all(row.accepted for row in rows)
