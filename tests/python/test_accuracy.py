"""Every row of scripts/accuracy: lossd is within its documented bound, whatever the peer answers."""

import pytest

from accuracy_cases import CASES
from accuracy_judge import run


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_lossd_is_right(lossd, case):
    row = run(case, lossd)
    assert row.passed, (row.verdict, row.truth, row.lossd, row.peer)
