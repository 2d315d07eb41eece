"""A bar in notebooks, without asking, that comes when something takes long and goes when it is done."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from phosphene import explain
from phosphene.tasks import notebook
from phosphene.tasks.notebook import NotebookBar, told
from tests.networks import classifier_of, pooled


@pytest.fixture
def shown(monkeypatch):
    """What stands below the cell, one text after the other."""
    texts: list[str] = []
    handle = SimpleNamespace(update=texts.append)
    display = SimpleNamespace(HTML=str, display=lambda text, display_id: texts.append(text) or handle)
    kernel = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(notebook, "_PATIENCE", 0.0)
    monkeypatch.setattr(notebook, "_BETWEEN", 0.0)
    return texts


def test_a_bar_comes_and_goes(shown):
    explain(classifier_of(pooled()), torch.rand(1, 3, 16, 16), "occlusion:window=4,stride=2", target=1, batch_size=4)
    assert "<progress value=" in shown[0]
    assert " s left" in shown[0]
    assert shown[-1] == ""


def test_short_work_shows_none(shown, monkeypatch):
    monkeypatch.setattr(notebook, "_PATIENCE", 3600.0)
    explain(classifier_of(pooled()), torch.rand(1, 3, 16, 16), "occlusion:window=4,stride=2", target=1)
    assert shown == []


def test_outside_of_notebooks_and_where_one_was_given_there_is_none(shown, monkeypatch):
    assert isinstance(told(None), NotebookBar)
    given = lambda done, total: None  # noqa: E731
    assert told(given) is given
    monkeypatch.delitem(sys.modules, "IPython")
    assert told(None) is None
