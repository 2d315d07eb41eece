"""Rows in, rows out: every kind of sink, and runs of every age opened again."""

from __future__ import annotations

import json
import signal
import typing
from dataclasses import fields, replace
from pathlib import PurePosixPath

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from phosphene.cancel import Cancel
from phosphene.errors import CancelledError, InputError, NotFoundError, OptionError, OutputError
from phosphene.store import (
    Asset,
    ExplainRow,
    FolderSink,
    MemorySink,
    Plan,
    PredictRow,
    RunFolder,
    decode_mask,
    encode_mask,
    open_run,
    open_sink,
    read_manifest,
    row_from_json,
    row_to_json,
    sink_kinds,
)
from phosphene.store.rows import ROW_KINDS
from phosphene.types import Prediction
from tests.store.rows import COLUMN_TYPES, explain_row, keys_of, locate_row, plan_of, predict_row

KEYS = keys_of(10)


def written(place, plan, keys=None, **options):
    with FolderSink(str(place), plan, **options) as sink:
        for key in keys if keys is not None else plan.keys:
            if key not in sink.done:
                sink.write(explain_row(key))
    return open_run(place)


def test_a_run_is_told_from_its_plan_before_the_first_row(tmp_path):
    sink = FolderSink(str(tmp_path / "run"), plan_of(10))
    run = open_run(tmp_path / "run")
    assert (run.command, run.is_complete, run.rows(), run.done, run.missing) == ("explain", False, [], set(), KEYS)
    assert run.manifest["plan"]["count"] == 10
    assert run.manifest["model"] == {"sha256": "abc"}
    assert run.answer()["images"] == []
    sink.close()


def test_rows_are_there_as_soon_as_they_are_written(tmp_path):
    with FolderSink(str(tmp_path / "run"), plan_of(10)) as sink:
        for count, key in enumerate(KEYS, 1):
            sink.write(explain_row(key))
            assert len(open_run(tmp_path / "run").rows()) == count
        sink.close(class_top1=0.5)
    run = open_run(tmp_path / "run")
    assert run.is_complete
    assert run.manifest["class_top1"] == 0.5
    assert run.manifest["rows"] == {"ok": 9, "error": 1}
    assert run.failed == (KEYS[3],)
    assert "0000/cam.npy" in run.files
    row = run.rows()[0]
    assert isinstance(row, ExplainRow)
    assert row.maps[0].map == PurePosixPath("0000/cam.npy")
    assert row.maps[1].score is None
    assert row.maps[0].view == explain_row(KEYS[0]).maps[0].view
    assert np.array_equal(np.load(run.path(row.maps[0].map)), explain_row(KEYS[0]).maps[0].map.content)


@pytest.mark.parametrize("torn", [b'{"kind": "expl', b'{"kind": "explain"', b"\0\0\0", b'{"kind": "none"}\n', b"[]\n"])
def test_a_torn_last_line_is_not_counted_and_is_cut_away(tmp_path, torn):
    whole = written(tmp_path / "whole", plan_of(10))
    run = written(tmp_path / "run", plan_of(10), KEYS[:4])
    with open(run.path("rows.jsonl"), "ab") as file:
        file.write(torn)
    (tmp_path / "run" / "0004").mkdir()
    (tmp_path / "run" / "0004" / ".abc.partial").write_bytes(b"half")
    run = open_run(tmp_path / "run")
    assert run.missing == KEYS[4:]
    assert not any(name.endswith(".partial") for name in run.files)
    again = written(tmp_path / "run", plan_of(10), resume=True)
    assert again.is_complete
    assert again.rows() == whole.rows()
    assert again.files == whole.files


def test_a_stop_keeps_what_was_finished(tmp_path):
    cancel = Cancel()

    def work():
        with FolderSink(str(tmp_path / "run"), plan_of(10)) as sink:
            for key in KEYS:
                cancel.raise_if_cancelled()
                sink.write(explain_row(key))
                if key == KEYS[2]:
                    cancel.cancel()

    with pytest.raises(CancelledError):
        work()
    run = open_run(tmp_path / "run")
    assert not run.is_complete
    assert run.missing == KEYS[3:]


def test_only_the_same_plan_is_gone_on_with(tmp_path):
    written(tmp_path / "run", plan_of(4, options={"methods": ["cam"]}), KEYS[:2])
    for plan, named in [
        (plan_of(4, options={"methods": ["rise"]}), r"another methods \(then \[\"cam\"\]\);"),
        (plan_of(4, options={"methods": ["cam"]}, seed=1), r"another seed \(then 0\);"),
        (plan_of(5, options={"methods": ["cam"]}), r"set of pictures: 1 new \('val/1/0004 é\.jpg'\)"),
        (
            Plan("locate", KEYS[:4], plan_of(4, options={"methods": ["cam"]}).facts),
            r"another command \(then \"explain\"\);",
        ),
    ]:
        with pytest.raises(OptionError, match=named) as caught:
            FolderSink(str(tmp_path / "run"), plan, resume=True)
        assert "\n" not in str(caught.value)
    with pytest.raises(OptionError, match="--overwrite"):
        FolderSink(str(tmp_path / "run"), plan_of(4))
    assert written(tmp_path / "run", plan_of(1), overwrite=True).is_complete


def test_resume_without_a_run_begins_one_and_old_runs_are_refused(tmp_path):
    assert written(tmp_path / "new", plan_of(2), resume=True).is_complete
    RunFolder.create(tmp_path / "old", "explain").save_manifest(images=[])
    with pytest.raises(OptionError, match="older phosphene"):
        FolderSink(str(tmp_path / "old"), plan_of(2), resume=True)
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".manifest.partial").write_bytes(b"{")
    assert written(tmp_path / "killed", plan_of(2)).is_complete
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(OptionError, match="no phosphene run"):
        FolderSink(str(tmp_path / "photos"), plan_of(2), resume=True, overwrite=True)


def test_a_run_without_known_keys(tmp_path):
    run = written(tmp_path / "run", Plan("explain"), KEYS[:3])
    assert run.is_complete
    assert (run.planned, run.missing) == (None, None)
    assert [row.key for row in run.rows()] == list(KEYS[:3])


def test_runs_of_the_first_version_are_opened(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "explain")
    good = {"status": "ok", "error": None}
    shown = {
        "method": "cam",
        "title": "CAM",
        "target": {"index": 281, "label": "tabby"},
        "map": "001-a/cam.npy",
        **good,
    }
    shown["scale"] = {"low": 0.0, "high": 1.0, "display": "positive"}
    image = {"path": "a.jpg", "predicted": [], "size": [4, 6], "of_another_version": 1, "maps": [shown], **good}
    folder.save_manifest(complete=True, images=[image, image])
    run = open_run(folder.path)
    assert run.is_complete
    first, second = run.rows()
    assert (first.key, second.key) == ("a.jpg", "a.jpg#2")
    assert first.maps[0].target.index == 281
    assert (run.planned, run.missing) == (None, None)
    assert read_manifest(folder.path)["images"] == [image, image]
    with pytest.raises(InputError, match="is no run folder"):
        open_run(tmp_path)
    for command, listing in (("fuse", "impressions"), ("localization", "rows")):
        other = RunFolder.create(tmp_path / command, command)
        other.save_manifest(**{listing: []})
        assert open_run(other.path).rows() == []


def test_the_answer_is_what_commands_print(tmp_path):
    answer = read_manifest(written(tmp_path / "run", plan_of(4)).place)
    image = answer["images"][0]
    assert {"path", "status", "error", "predicted", "maps"} <= image.keys()
    assert "kind" not in image
    shown = image["maps"][0]
    assert shown.keys() >= {"method", "layer", "target", "status", "error", "score", "map", "overlay", "seconds"}
    assert shown["target"] == {"index": 281, "label": "tabby"}
    assert "beside" not in shown
    json.dumps(answer, allow_nan=False)


def test_names_that_lead_out_of_a_run_are_refused(tmp_path):
    run = written(tmp_path / "run", plan_of(1))
    for name in ("../secret.txt", "/etc/passwd", "a/../../b", "s3://bucket/a"):
        with pytest.raises(InputError, match="is not in the run"):
            run.path(name)


def example(kind):
    """A value of an annotated type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is typing.Any:
        return "x"
    if origin is typing.Literal:
        return arguments[0]
    if origin is tuple:
        inner = arguments[:1] * 2 if arguments[-1] is Ellipsis else arguments
        return tuple(example(one) for one in inner)
    if type(None) in arguments or Asset in arguments:
        return example(next(one for one in arguments if one not in (type(None), Asset)))
    if origin is not None:
        return {"k": example(arguments[1])}
    if hasattr(kind, "__dataclass_fields__"):
        hints = typing.get_type_hints(kind)
        # a map beside a map beside a map
        return kind(**{f.name: None if f.name == "beside" else example(hints[f.name]) for f in fields(kind)})
    return {str: "é\n", int: 3, float: 0.5, bool: True, PurePosixPath: PurePosixPath("a/b.png")}.get(kind) or kind(
        "a/b"
    )


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_every_kind_of_row_comes_back_from_json(kind):
    row = example(ROW_KINDS[kind])
    assert row_from_json(json.loads(json.dumps(row_to_json(row), allow_nan=False))) == row
    assert row_from_json({**row_to_json(row), "of_a_newer_version": 1}) == row


def test_a_full_disk_costs_the_row_and_nothing_else(tmp_path):
    resource = pytest.importorskip("resource")
    sink = FolderSink(str(tmp_path / "run"), plan_of(4))
    sink.write(explain_row(KEYS[3]))  # a broken picture: no files, one line
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "run" / "rows.jsonl").stat().st_size + 40, limits[1]))
        with pytest.raises(OutputError, match=r"rows\.jsonl: cannot be written"):
            sink.write(replace(explain_row(KEYS[3]), key=KEYS[0]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    sink.write(explain_row(KEYS[1]))
    sink.close()
    run = open_run(tmp_path / "run")
    assert [row.key for row in run] == [KEYS[3], KEYS[1]]
    assert not run.is_complete


@pytest.mark.parametrize("kind", sink_kinds())
def test_what_holds_for_every_sink(tmp_path, kind):
    if kind == "shards":
        pytest.importorskip("pyarrow")
    with open_sink(kind, str(tmp_path / "run"), plan_of(3)) as sink:
        assert sink.name == kind
        assert sink.done == frozenset()
        for key in KEYS[:3]:
            assert sink.write(explain_row(key)) is None
        sink.close(note="a fact")
    if kind != "memory":
        assert open_run(tmp_path / "run").is_complete
        assert open_run(tmp_path / "run").manifest["note"] == "a fact"
        with pytest.raises(OptionError, match="--overwrite"):
            open_sink(kind, str(tmp_path / "run"), plan_of(3))
        again = open_sink(kind, str(tmp_path / "run"), plan_of(3), resume=True)
        assert again.done == set(KEYS[:3])
        again.close()
        assert open_run(tmp_path / "run").is_complete


def test_memory_keeps_arrays():
    with MemorySink() as sink:
        sink.write(explain_row(KEYS[0]))
    assert isinstance(sink.rows[0].maps[0].map, Asset)


def test_unknown_sinks_are_refused(tmp_path):
    with pytest.raises(NotFoundError, match="did you mean 'folder'"):
        open_sink("foldr", str(tmp_path), plan_of(1))


def shards(place, plan, rows, *, close=True, **options):
    pytest.importorskip("pyarrow")
    sink = open_sink("shards", str(place), plan, **{"shard_size": 4, "maps": "float32", **options})
    for row in rows:
        sink.write(row)
    if close:
        sink.close()
    return open_run(place)


def read(place, name="part-00000.parquet"):
    from pyarrow import parquet

    return parquet.read_table(f"{place}/{name}")


def test_shards_have_the_documented_columns(tmp_path):
    run = shards(tmp_path / "run", plan_of(10), map(explain_row, KEYS), columns=COLUMN_TYPES, maps="float16")
    assert run.is_complete
    assert run.missing == ()
    assert [name for name in run.files if name.endswith(".parquet")] == [f"part-0000{n}.parquet" for n in range(3)]
    table = read(run.place)
    assert table.column_names == [
        "key", "path", "status", "error", "predicted", "label", "method", "layer", "target_index", "target_label",
        "score", "map", "map_shape", "map_dtype", "view", "box", "mask", "seconds", "label_index", "correct",
        "picture_size", "map_grid", "map_display", "evidence_inside", "mask_share", "camera", "age", "source_score",
    ]  # fmt: skip
    records = table.to_pylist()
    assert [record["key"] for record in records] == [KEYS[0]] * 2 + [KEYS[1]] * 2 + [KEYS[2]] * 2 + [KEYS[3]]
    assert (records[6]["status"], records[6]["method"]) == ("error", None)
    first = records[0]
    values = np.frombuffer(first["map"], first["map_dtype"]).reshape(first["map_shape"])
    assert values.dtype == np.float16
    assert np.allclose(values, explain_row(KEYS[0]).maps[0].map.content, atol=2e-3)
    assert first["predicted"][0] == {"index": 281, "label": "tabby", "probability": 0.75}
    assert first["view"] == {"original": [48, 64], "scaled": [16, 16], "crop": [0, 0, 16, 16]}
    assert (first["camera"], first["age"], first["source_score"], first["label"]) == ("left", 0, 0.5, "281")
    assert table.schema.metadata[b"phosphene.shard_schema"] == b"2"
    assert read(run.place, "part-00001.parquet").schema == table.schema


def test_rows_come_back_from_shards(tmp_path):
    run = shards(tmp_path / "run", plan_of(10), map(explain_row, KEYS), columns=COLUMN_TYPES, overlays=True)
    for row, made in zip(run.rows(), map(explain_row, KEYS), strict=True):
        assert (row.key, row.path, row.status, row.error, row.predicted, row.columns, row.label) == (
            made.key, made.path, made.status, made.error, made.predicted, made.columns, made.label,
        )  # fmt: skip
        for shown, own in zip(row.maps, made.maps, strict=True):
            assert np.array_equal(shown.map.content, own.map.content)
            assert (shown.method, shown.target, shown.layer, shown.view) == (
                own.method,
                own.target,
                own.layer,
                own.view,
            )
            assert shown.overlay.content.startswith(b"\xff\xd8")
    assert run.failed == (KEYS[3],)


def test_other_kinds_in_shards(tmp_path):
    predicted = shards(tmp_path / "predict", Plan("predict", KEYS), map(predict_row, KEYS)).rows()
    assert predicted == list(map(predict_row, KEYS))
    located = shards(tmp_path / "locate", Plan("locate", KEYS[:2]), map(locate_row, KEYS[:2])).rows()
    (found,) = located[0].objects
    (made,) = locate_row(KEYS[0]).objects
    assert (found.index, found.label, found.probability, found.box) == (281, "tabby", 0.75, made.box)
    assert np.array_equal(found.mask.content, np.asarray(made.mask.content))
    assert np.array_equal(found.map.content, made.map.content)
    with pytest.raises(OptionError, match="not in the plan"):
        shards(tmp_path / "x", Plan("predict", KEYS[:1]), [predict_row("else.jpg")])


def test_rows_in_any_order_give_the_same_shards(tmp_path):
    one = shards(tmp_path / "one", plan_of(10), map(explain_row, KEYS))
    other = shards(tmp_path / "other", plan_of(10), map(explain_row, KEYS[::-1]))
    for name in one.files:
        if name.endswith(".parquet"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert other.is_complete


def test_shards_ended_early_keep_what_waits_and_killed_they_lose_that_alone(tmp_path):
    whole = shards(tmp_path / "whole", plan_of(10), map(explain_row, KEYS))
    run = shards(tmp_path / "run", plan_of(10), map(explain_row, KEYS[:6]))
    assert not run.is_complete
    assert run.missing == KEYS[6:]
    assert [row.key for row in run.rows()] == list(KEYS[:6])
    run = shards(tmp_path / "run", plan_of(10), map(explain_row, KEYS[6:7]), resume=True, close=False)
    assert run.missing == KEYS[6:]
    run = shards(tmp_path / "run", plan_of(10), map(explain_row, KEYS[6:]), resume=True)
    assert run.is_complete
    assert run.files == whole.files
    for name in whole.files:
        if name.endswith(".parquet"):
            assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(OptionError, match=r"another shard size"):
        shards(tmp_path / "run", plan_of(10), [], resume=True, shard_size=5)


def test_shards_without_known_keys(tmp_path):
    run = shards(tmp_path / "run", Plan("predict"), map(predict_row, KEYS[:6]))
    assert run.is_complete
    assert run.done == set(KEYS[:6])
    run = shards(tmp_path / "run", Plan("predict"), map(predict_row, KEYS[6:]), resume=True)
    assert [row.key for row in run.rows()] == list(KEYS)


def test_shards_behind_a_url():
    fsspec.filesystem("memory").store.clear()
    place = "memory://bucket/run"
    run = shards(place, plan_of(10), map(explain_row, KEYS[:6]))
    assert run.missing == KEYS[6:]
    assert shards(place, plan_of(10), map(explain_row, KEYS[6:]), resume=True).is_complete
    with pytest.raises(OptionError, match="--overwrite"):
        shards(place, plan_of(10), [])
    run = shards(place, plan_of(2), [], overwrite=True)
    assert run.missing == KEYS[:2]
    assert run.files == ("manifest.json", "plan.jsonl")


def test_damaged_shards_are_named(tmp_path):
    run = shards(tmp_path / "run", plan_of(4), map(explain_row, KEYS[:4]))
    (tmp_path / "run" / "part-00000.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(InputError, match=r"part-00000\.parquet: damaged"):
        run.rows()


@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_masks_come_back_from_their_runs(mask):
    assert np.array_equal(decode_mask(encode_mask(mask)), mask)


def test_masks_that_do_not_fill_their_size_are_refused():
    with pytest.raises(InputError, match="do not fill"):
        decode_mask({"size": [3, 3], "counts": "13"})


def test_many_rows_take_no_memory_and_little_time(tmp_path):
    keys = tuple(f"{number}.jpg" for number in range(5000))
    with FolderSink(str(tmp_path / "run"), Plan("predict", keys)) as sink:
        for key in keys:
            sink.write(PredictRow(key, key))
    assert open_run(tmp_path / "run").is_complete


def test_shards_take_names_and_texts_that_are_no_unicode(tmp_path):
    pytest.importorskip("pyarrow")
    keys = ("a\udcff.jpg", r"a\udcff.jpg", "caf\udce9/b.jpg")

    def row(key):
        best = (Prediction(0, "caf\udce9", 0.5),)
        return PredictRow(
            key, f"photos/{key}", label="caf\udce9", columns={"by": r"\udce9 " + "\udce9"}, predicted=best
        )

    with open_sink("shards", str(tmp_path / "run"), Plan("predict", keys), columns={"by": "string"}) as sink:
        sink.write(row(keys[0]))
        sink.write(row(keys[1]))
        sink.close(complete=False)
    assert open_run(tmp_path / "run").done == set(keys[:2])
    options = {"columns": {"by": "string"}, "resume": True}
    with open_sink("shards", str(tmp_path / "run"), Plan("predict", keys), **options) as sink:
        assert sink.done == set(keys[:2])
        sink.write(row(keys[2]))
    run = open_run(tmp_path / "run")
    assert run.is_complete
    assert [(found.key, found.path) for found in run.rows()] == [(key, f"photos/{key}") for key in keys]
    assert {found.label for found in run} == {r"caf\udce9"} == {found.predicted[0].label for found in run}
    assert {found.columns["by"] for found in run} == {r"\udce9 \udce9"}
