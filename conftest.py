"""Settings of every test and doctest: seeded, one thread per worker, torch at hand in examples."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from phosphene.synthesis import staged

# The page is made of Gradio's classes.
collect_ignore = [] if find_spec("gradio") else ["src/phosphene/web/page.py"]


@pytest.fixture(autouse=True)
def _seeded(doctest_namespace: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    doctest_namespace["tmp"] = tmp_path
    doctest_namespace["torch"] = torch
    doctest_namespace["nn"] = torch.nn


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is kept between runs is kept for this one only, and drawn in few steps."""
    os.environ["PHOSPHENE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    staged._COMPANION_STEPS = 20


def pytest_configure() -> None:
    """One thread per worker: three workers share two cores, and more threads only wait for each other."""
    torch.set_num_threads(1)
