"""The tables of docs/zoo.md are true today: some methods on every network of every task; `make test-zoo`."""

from __future__ import annotations

import pytest

from tests.zoo.page import rows
from tests.zoo.table import outcome
from tests.zoo.tasks import TASKS

METHODS = ("saliency", "grad_cam", "occlusion", "lrp", "attention_rollout", "xrai")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("task", "network"), [(task, name) for task in TASKS for name in TASKS[task].networks])
def test_the_table_is_true(task: str, network: str) -> None:
    written = {method: rows(task)[method][network].split(" ")[0] for method in METHODS}
    assert written == {method: outcome(method, task, network).word for method in METHODS}
