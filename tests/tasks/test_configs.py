"""What holds for the config of every task: it travels to other processes, stays what it is and tells its rows."""

from __future__ import annotations

import json
import pickle
from dataclasses import FrozenInstanceError, fields

import pytest

from phosphene import tasks
from phosphene.store.rows import ROW_KINDS
from phosphene.targets import Unit

CONFIGS = [
    tasks.ExplainConfig.of(["occlusion:window=10x20", "cam"], target=Unit("0", 1)),
    tasks.LocateConfig.of(["cam"], preset="paper"),
    tasks.PredictConfig(count=2),
    tasks.ImpressConfig(("tabby",), steps=3),
    tasks.FeaturesConfig(("head",), steps=3),
    tasks.ActivationsConfig(("head",), count=2),
]


def test_every_task_is_looked_at():
    assert {type(config).__name__ for config in CONFIGS} == {name for name in tasks.__all__ if name.endswith("Config")}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_config_travels_and_does_not_change(config):
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(config) == hash(pickle.loads(pickle.dumps(config)))
    with pytest.raises(FrozenInstanceError):
        setattr(config, fields(config)[0].name, None)
    assert config.rows in ROW_KINDS.values()


@pytest.mark.parametrize("config", CONFIGS[:3], ids=lambda config: type(config).__name__)
def test_what_decides_the_rows_is_told_in_json(config):
    assert json.loads(json.dumps(config.described()))["batch_size"] == config.batch_size
