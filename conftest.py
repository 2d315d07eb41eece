"""Settings of every test and doctest: seeded, one thread per worker, torch at hand in examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded(doctest_namespace: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    doctest_namespace["tmp"] = tmp_path
    doctest_namespace["torch"] = torch
    doctest_namespace["nn"] = torch.nn


def pytest_configure() -> None:
    """One thread per worker: two workers share two cores, and more threads only wait for each other."""
    torch.set_num_threads(1)
