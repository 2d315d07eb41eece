"""The same shards on a Ray cluster in this machine; skipped where Ray is not installed."""

from __future__ import annotations

import pytest

import phosphene
from phosphene.errors import MissingExtraError, ResourceError
from tests.batch.small import SPEC, photos
from tests.batch.test_batch import records, run

parquet = pytest.importorskip("pyarrow.parquet")


def test_without_ray_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ray\[data\]"):
        run(photos(tmp_path / "photos", 2), tmp_path / "run", ray="local")


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_shards_of_a_local_cluster_are_those_of_one_process(tmp_path):
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra [ray])")
    folder = photos(tmp_path / "photos", 12, broken=(3,))
    options = {"method": "saliency", "shard_size": 4, "maps": "float32", "batch_size": 2, "threads": 1}
    with pytest.raises(ResourceError, match="no cluster"):
        phosphene.batch(SPEC, folder, tmp_path / "none", ray="127.0.0.1:1", **options)
    told = []
    answer = phosphene.batch(
        SPEC, folder, tmp_path / "run", ray="local", workers=2, progress=lambda *one: told.append(one), **options
    )
    assert not ray.is_initialized()
    assert (answer["rows"], answer["failed"], answer["shards"]) == (12, 1, 3)
    assert told[-1][:2] == (12, 12)
    phosphene.batch(SPEC, folder, tmp_path / "alone", **options)
    assert records(tmp_path / "run") == records(tmp_path / "alone")
