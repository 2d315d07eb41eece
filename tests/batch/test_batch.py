"""Runs in this process: what their shards hold, how they go on, what they refuse, where the evidence lies."""

from __future__ import annotations

import json
import os
import re
import warnings
from dataclasses import replace

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import phosphene
from phosphene.batches import batch_status
from phosphene.batches.maker import ShardMaker
from phosphene.batches.masks import shares
from phosphene.batches.work import Shard, Work
from phosphene.errors import InputError, ModelError, OptionError, OutputError, PhospheneWarning
from phosphene.files import MANIFEST
from phosphene.geometry import center_view, lay_on_original, whole_view
from phosphene.report import write_report
from phosphene.report.summary import seen_of, summary
from phosphene.sources import open_source
from phosphene.store import Run, ShardFormat, locked, open_run
from phosphene.store.rows import Grid
from phosphene.tasks import ExplainConfig, LocateConfig, PredictConfig
from phosphene.zoo import ModelChoice
from tests.batch.small import LABELS, make, photos, picture

parquet = pytest.importorskip("pyarrow.parquet")


def run(source, out, **options):
    options = {"shard_size": 4, "maps": "float32", "batch_size": 3, **options}
    return phosphene.batch(make(), source, out, **options)


def table(place):
    return parquet.read_table(sorted(str(path) for path in place.glob("*.parquet"))).to_pylist()


def records(place):
    """All rows without what differs from time to time."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in table(place)]


def shards(place):
    return sorted(path.name for path in place.glob("part-*"))


def test_every_picture_is_a_row_and_broken_ones_say_why(tmp_path):
    folder = photos(tmp_path / "photos", 10, broken=(2, 7))
    told = []
    answer = run(folder, tmp_path / "run", method=["grad_cam", "saliency"], progress=lambda *one: told.append(one))
    assert {"run", "rows", "ok", "failed", "shards", "seconds", "pictures_per_second"} <= answer.keys()
    assert (answer["pictures"], answer["rows"], answer["ok"], answer["failed"], answer["shards"]) == (10, 18, 16, 2, 3)
    assert 0 <= answer["idle_share"] <= 1
    json.dumps(answer, allow_nan=False)
    rows = table(tmp_path / "run")
    assert [row["key"] for row in rows] == sorted(
        [f"{n:04d}.png" for n in range(10)] + [f"{n:04d}.png" for n in range(10) if n not in (2, 7)]
    )
    for row in rows:
        broken = row["key"] in ("0002.png", "0007.png")
        assert (row["status"] == "error") == broken == ("not an image" in (row["error"] or ""))
        assert (row["map"] is None) == broken
        assert broken or len(row["predicted"]) == 5
    done, total, text = told[-1]
    assert (done, total) == (10, 10)
    assert "pictures/s" in text
    assert "2 failed" in text
    assert "left" in text


def test_the_maps_are_those_of_explain(tmp_path):
    folder = photos(tmp_path / "photos", 6)
    run(folder, tmp_path / "run", method="grad_cam", classes="dog", shard_size=6, batch_size=6)
    result = phosphene.explain(make(), sorted(folder.iterdir()), "grad_cam", target="dog")
    for row, values, score in zip(table(tmp_path / "run"), result.maps, result.score, strict=True):
        kept = np.frombuffer(row["map"], np.float32).reshape(row["map_shape"])
        np.testing.assert_allclose(kept, values, rtol=1e-5, atol=1e-7)
        assert row["score"] == pytest.approx(float(score), rel=1e-5)
        assert (row["target_label"], row["method"], row["layer"]) == ("dog", "grad_cam", result.layer)
        assert row["map_grid"] == {"offset": list(result.offset), "stride": list(result.stride), "size": [32, 32]}
        assert row["picture_size"] == [40, 48]
        assert row["map_display"] == "positive"


def test_labels_say_what_is_right_and_columns_are_carried(tmp_path):
    folder = photos(tmp_path / "photos", 6, broken=(5,))
    lines = ["path,class,camera,score"]
    lines += [
        f"photos/{n:04d}.png,{label},left,{n}" for n, label in enumerate(["cat", "dog", "2", "hen", "cow", "owl"])
    ]
    (tmp_path / "all.csv").write_text("\n".join(lines) + "\n")
    with pytest.warns(PhospheneWarning, match="1 of 6 labels mean no class of mortal, the first is 'cow'"):
        run(tmp_path / "all.csv", tmp_path / "run", task="predict", label_column="class")
    rows = table(tmp_path / "run")
    assert [row["label_index"] for row in rows] == [0, 1, 2, 3, None, 4]
    assert [row["camera"] for row in rows] == ["left"] * 6
    assert [row["source_score"] for row in rows] == [str(n) for n in range(6)]
    for row in rows[:4]:
        assert row["correct"] == (LABELS.index(row["predicted"][0]["label"]) == row["label_index"])
    assert rows[4]["correct"] is None  # no class of this name
    assert rows[5]["correct"] is None  # no picture
    assert folder.is_dir()


def test_it_goes_on_where_it_was_and_makes_nothing_twice(tmp_path):
    folder = photos(tmp_path / "photos", 10, broken=(2,))
    run(folder, tmp_path / "whole", method="saliency")
    out = tmp_path / "run"
    answer = run(folder, out, method="saliency")
    before = {name: (out / name).stat().st_mtime_ns for name in shards(out)}
    assert shards(out) == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    (out / "part-00001.parquet").unlink()
    (out / ".abc.partial").write_bytes(b"half")
    status = batch_status(out)
    assert (status["complete"], status["pictures"], status["shards"], status["planned_shards"]) == (False, 6, 2, 3)
    again = run(folder, out, method="saliency")
    assert {**again, **dict.fromkeys(["seconds", "pictures_per_second", "idle_share"])} == {
        **answer,
        **dict.fromkeys(["seconds", "pictures_per_second", "idle_share"]),
    }
    assert not list(out.glob(".*"))
    after = {name: (out / name).stat().st_mtime_ns for name in shards(out)}
    assert {name for name in before if before[name] != after[name]} == {"part-00001.parquet"}
    assert records(out) == records(tmp_path / "whole")
    assert open_run(out).is_complete
    assert batch_status(out)["complete"]
    assert run(folder, out, method="saliency")["rows"] == 10  # nothing to do
    assert {name: (out / name).stat().st_mtime_ns for name in shards(out)} == after


def test_a_run_that_another_process_is_writing_is_left_alone(tmp_path):
    folder = photos(tmp_path / "photos", 3)
    out = tmp_path / "run"
    run(folder, out)
    (out / "part-00000.parquet").unlink()
    (out / ".abc.partial").write_bytes(b"under way")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with locked(str(out)):
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="run: another process is writing this run; let it end first"):
                run(folder, out, overwrite=overwrite)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert run(folder, out)["rows"] == 3
    fsspec.filesystem("memory").store.clear()
    with locked("memory://runs/one"), locked("memory://runs/one"):  # nobody watches over a store
        assert run(folder, "memory://runs/one")["rows"] == 3
    assert not (tmp_path / "memory:").exists()


def test_names_that_are_no_unicode_are_spelled_and_found_again(tmp_path):
    folder = photos(tmp_path / "photos", 2)
    odd = ["0015\udcff.png", r"0015\udcff.png", r"0015\x5cudcff.png", "caf\udce9/1.png"]
    try:
        (folder / "caf\udce9").mkdir()
        for number, name in enumerate(odd):
            picture(number).save(folder / "new.png")
            (folder / "new.png").rename(folder / name)
    except OSError:
        pytest.skip("this file system takes no such names")
    names = open_source(folder).keys()
    assert set(odd) < set(names)
    out = tmp_path / "run"
    answer = run(folder, out, shard_size=2)
    assert (answer["rows"], answer["failed"]) == (6, 0)
    written = [row["key"] for row in table(out)]
    assert set(written) == {
        "0000.png", "0001.png", r"0015\udcff.png", r"0015\x5cudcff.png", r"0015\x5cx5cudcff.png", r"caf\udce9/1.png"
    }  # fmt: skip
    assert [row.key for row in open_run(out).rows()] == names
    assert all(os.path.isfile(row.path) for row in open_run(out))
    whole = records(out)
    (out / "part-00001.parquet").unlink()
    assert run(folder, out, shard_size=2)["rows"] == 6
    assert records(out) == whole
    write_report(out)
    originals = re.findall(r'"original":("[^"]*"|null)', (out / "report" / "rows-00000.js").read_text())
    assert originals.count("null") == 2  # no address can be made of these


def test_a_damaged_shard_is_made_again(tmp_path):
    folder = photos(tmp_path / "photos", 6)
    run(folder, tmp_path / "run")
    whole = records(tmp_path / "run")
    place = tmp_path / "run" / "part-00000.parquet"
    place.write_bytes(place.read_bytes()[:-100])
    assert batch_status(tmp_path / "run")["damaged"] == ["part-00000.parquet"]
    with pytest.warns(PhospheneWarning, match=r"part-00000\.parquet: damaged .* it is made again"):
        run(folder, tmp_path / "run")
    assert records(tmp_path / "run") == whole


def test_another_plan_is_refused_by_name(tmp_path):
    folder = photos(tmp_path / "photos", 6)
    out = tmp_path / "run"
    run(folder, out, method="grad_cam")
    for options, named in [
        ({"method": "saliency"}, r"another methods"),
        ({"classes": "top2"}, r"another classes"),
        ({"shard_size": 5}, r"another shard size"),
        ({"maps": "none"}, r"another shard maps"),
        ({"seed": 1}, "another seed"),
        ({"limit": 5}, r"set of pictures: 1 missing \('0005\.png'\)"),
        ({"task": "predict"}, "another command"),
        ({"masks": str(folder)}, "another masks"),
    ]:
        with pytest.raises(OptionError, match=named):
            run(folder, out, **{"method": "grad_cam", **options} if "task" not in options else options)
    assert run(folder, out, method="saliency", overwrite=True)["rows"] == 6
    assert {row["method"] for row in table(out)} == {"saliency"}


def test_what_cannot_be_done_is_refused_before_anything_is_made(tmp_path):
    folder = photos(tmp_path / "photos", 2)
    out = tmp_path / "run"
    for options, kind, message in [
        ({"method": "grad_cm"}, OptionError, "did you mean 'grad_cam'"),
        ({"classes": "cow"}, OptionError, "no class 'cow'"),
        ({"maps": "int8"}, OptionError, "choose none, float16 or float32"),
        ({"shard_size": 0}, OptionError, "give 1 or more"),
        ({"limit": 0}, OptionError, "--limit 0"),
        ({"masks": "nowhere"}, OptionError, "neither a folder, nor a column"),
        ({"task": "predict", "masks": str(folder)}, OptionError, "predict has none"),
        ({"task": "predict", "method": "cam"}, OptionError, "predict has no methods"),
        ({"task": "explian"}, OptionError, "choose explain, predict or locate"),
        ({"task": ExplainConfig.of(["cam"], versus="dog")}, OptionError, "drop --versus"),
        ({"num_gpus": 1}, OptionError, "add --ray"),
        ({"overwrite": True, "out": folder}, OptionError, "which --overwrite would clear"),
        ({"out": folder}, OptionError, "no phosphene run"),
    ]:
        with pytest.raises(kind, match=message):
            run(folder, **{"out": out, **options})
    with pytest.raises(InputError, match="no such file or folder"):
        run(tmp_path / "none", out)
    assert not out.exists()


def test_pictures_in_the_folder_that_would_be_cleared_are_refused(tmp_path):
    folder = photos(tmp_path / "run" / "photos", 2)
    (tmp_path / "run" / MANIFEST).write_text('{"schema": 2, "phosphene": "x", "command": "explain"}')
    with pytest.raises(OptionError, match="which --overwrite would clear"):
        run(folder, tmp_path / "run", overwrite=True)
    assert len(list(folder.iterdir())) == 2


def test_predict_and_locate(tmp_path):
    folder = photos(tmp_path / "photos", 5, broken=(1,))
    run(folder, tmp_path / "predict", task=PredictConfig(count=2))
    assert [len(row["predicted"] or ()) for row in table(tmp_path / "predict")] == [2, 0, 2, 2, 2]
    config = LocateConfig.of(["grad_cam"], segment="threshold", classes="top2", batch_size=4)
    run(folder, tmp_path / "locate", task=config, overlays=True)
    rows = table(tmp_path / "locate")
    assert sum(row["status"] == "error" for row in rows) >= 1
    located = [row for row in rows if row["mask"] is not None]
    assert located
    for row in located:
        height, width = row["picture_size"]
        assert row["mask"]["size"] == [height, width] == [40, 48]
        x0, y0, x1, y1 = row["box"]
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert 0 < row["mask_share"] <= 1
        assert row["evidence_inside"] >= row["mask_share"]  # it was cut out where the evidence is
        assert row["overlay"].startswith(b"\xff\xd8")
        assert len(row["predicted"]) == 5


def test_overlays_are_kept_where_they_are_asked_for(tmp_path):
    folder = photos(tmp_path / "photos", 2)
    run(folder, tmp_path / "run", overlays=True, maps="none")
    for row in table(tmp_path / "run"):
        assert row["overlay"].startswith(b"\xff\xd8")
        assert row["map"] is None


def test_runs_behind_urls_and_the_first_pictures_of_a_bucket(tmp_path):
    store = fsspec.filesystem("memory")
    store.store.clear()
    for path in photos(tmp_path / "photos", 7).iterdir():
        store.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    answer = run("memory://bucket", "memory://runs/one", limit=6)
    assert (answer["rows"], answer["shards"]) == (6, 2)
    assert batch_status("memory://runs/one")["complete"]
    store.rm("/runs/one/part-00000.parquet")
    assert batch_status("memory://runs/one")["state"] is None  # whether somebody is at it
    assert run("memory://bucket", "memory://runs/one", limit=6)["rows"] == 6
    assert [row.key for row in open_run("memory://runs/one")] == [f"{n:04d}.png" for n in range(6)]
    store.store.clear()


def test_what_a_network_makes_of_one_picture_costs_that_picture(tmp_path, monkeypatch):
    folder = photos(tmp_path / "photos", 8)
    red = Image.new("RGB", (40, 40), (255, 0, 0))
    red.save(folder / "0004.png")

    def forward(self, images):
        if bool((images[:, 0] > 0.99).all((1, 2)).any()):
            raise RuntimeError("cannot\nread this")
        return self.layers(images)

    monkeypatch.setattr("tests.batch.small.Mortal.forward", forward)
    answer = run(folder, tmp_path / "run", shard_size=8)
    assert (answer["ok"], answer["failed"]) == (7, 1)
    (error,) = [row["error"] for row in table(tmp_path / "run") if row["status"] == "error"]
    assert "cannot" in error
    assert "\n" not in error


def test_a_network_that_can_do_nothing_stops_the_run(tmp_path, monkeypatch):
    folder = photos(tmp_path / "photos", 8)
    before = make()
    monkeypatch.setattr("tests.batch.small.Mortal.forward", lambda self, images: self.no_such_thing(images))
    with pytest.raises((ModelError, AttributeError)):
        phosphene.batch(before, folder, tmp_path / "run")
    assert shards(tmp_path / "run") == []


def test_pictures_that_change_while_they_are_listed_are_told(tmp_path, monkeypatch):
    folder = photos(tmp_path / "photos", 5)
    source = open_source(folder)
    first = list(source.entries())
    listings = iter([first, first[1:]])
    monkeypatch.setattr(source, "entries", lambda: iter(next(listings)))
    with pytest.raises(InputError, match="the pictures changed while they were being listed"):
        run(source, tmp_path / "run")


def test_the_same_shard_whatever_else_is_made(tmp_path):
    """Batches are cut from the shard: one that is made alone has the bytes that it has in a whole run."""
    folder = photos(tmp_path / "photos", 10)
    run(folder, tmp_path / "run", method="saliency")
    work = Work(
        str(tmp_path / "alone"),
        ModelChoice(make()),
        ExplainConfig.of(["saliency"], batch_size=3, overlay_side=0),
        ShardFormat("float32"),
        "",
    )
    entries = tuple(open_source(folder).entries())[4:8]
    ShardMaker(work).make(Shard(1, entries))
    maps = {row["key"]: row["map"] for row in table(tmp_path / "run")}
    for row in table(tmp_path / "alone"):
        assert row["map"] == maps[row["key"]]


def masked(folder, count, size=(40, 48)):
    """Masks of the left half."""
    folder.mkdir(parents=True)
    values = np.zeros(size, np.uint8)
    values[:, : size[1] // 2] = 255
    for number in range(count):
        Image.fromarray(values).save(folder / f"{number:04d}.png")
    return folder


def test_evidence_inside_masks_of_a_folder(tmp_path):
    folder = photos(tmp_path / "photos", 4)
    masks = masked(tmp_path / "masks", 3)
    Image.new("L", (9, 9)).save(masks / "0001.png")
    answer = run(folder, tmp_path / "run", masks=str(masks), method=["saliency", "occlusion:window=8,stride=8"])
    rows = table(tmp_path / "run")
    assert answer["failed"] == 2
    for row in rows:
        if row["key"] == "0001.png":
            assert "a mask of 9 x 9 pixels for a picture of 48 x 40" in row["error"]
            assert row["map"] is not None
        elif row["key"] == "0003.png":
            assert (row["status"], row["evidence_inside"], row["mask_share"]) == ("ok", None, None)
        else:
            assert row["mask_share"] == pytest.approx(0.5, abs=0.03)
            assert 0 < row["evidence_inside"] < 1
    result = phosphene.explain(make(), folder / "0000.png", "saliency")
    values = np.abs(result.maps[0].numpy())
    mine = next(row for row in rows if row["key"] == "0000.png" and row["method"] == "saliency")
    laid = lay_on_original(torch.from_numpy(values), result.offset, result.stride, result.views[0])
    assert mine["evidence_inside"] == pytest.approx(float(laid[:, :24].sum() / laid.sum()), abs=0.02)


def test_a_folder_of_masks_that_fit_no_picture_is_refused_before_the_run(tmp_path):
    folder, masks = photos(tmp_path / "photos", 2), masked(tmp_path / "masks" / "deeper", 2)
    with pytest.raises(OptionError, match=r"none of the first 2 pictures has a mask there; looked for .*0000\.png"):
        run(folder, tmp_path / "run", masks=str(masks.parent), method="saliency")
    assert not (tmp_path / "run").exists()


def test_masks_of_a_column_and_of_located_objects(tmp_path):
    photos(tmp_path / "data" / "photos", 3)
    masked(tmp_path / "data" / "masks", 3)
    lines = ["path,object"] + [f"photos/{n:04d}.png,masks/{n:04d}.png" for n in range(2)] + ["photos/0002.png,"]
    (tmp_path / "data" / "all.csv").write_text("\n".join(lines) + "\n")
    run(tmp_path / "data" / "all.csv", tmp_path / "column", masks="object", method="saliency")
    found = [row["mask_share"] for row in table(tmp_path / "column")]
    assert found[:2] == pytest.approx([0.5, 0.5], abs=0.03)
    assert found[2] is None
    run(tmp_path / "data" / "all.csv", tmp_path / "located", masks="located", method="grad_cam", shard_size=3)
    found = [row for row in table(tmp_path / "located") if row["evidence_inside"] is not None]
    assert found
    for row in found:
        assert row["evidence_inside"] > row["mask_share"]


class Bright(nn.Module):
    """Class 0 is bright, class 1 is dark."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
        self.features[0].weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1) / 3
        self.features[0].bias.data = torch.tensor([0.0, 1.0])

    def forward(self, x):
        return self.features(x).mean((2, 3)) * 20


@pytest.mark.filterwarnings("ignore::phosphene.errors.PhospheneWarning")  # (no layer between that could say where)
def test_the_located_object_is_that_of_the_explained_class(tmp_path):
    """`locate` sees the whole frame too, and may put another class first: those pictures do not fall out."""
    (tmp_path / "photos").mkdir()
    values = np.full((40, 400, 3), 255, np.uint8)
    values[:, 180:212] = 0
    Image.fromarray(values).save(tmp_path / "photos" / "a.png")
    classifier = phosphene.Classifier(Bright(), phosphene.Preprocess((32, 32), short_side=32), ["bright", "dark"])
    assert phosphene.locate(classifier, tmp_path / "photos" / "a.png")[0].label == "bright"
    options = {"shard_size": 4, "maps": "float32", "masks": "located", "method": ["grad_cam", "saliency"]}
    phosphene.batch(classifier, tmp_path / "photos", tmp_path / "run", **options)
    rows = table(tmp_path / "run")
    assert [row["target_label"] for row in rows] == ["dark", "dark"]
    assert all(row["mask_share"] is not None for row in rows)


@pytest.mark.parametrize("seed", range(6))
def test_shares_are_those_of_the_map_laid_on_the_picture(seed):
    """The literal way: map and mask in the picture's own pixels, as far as the network saw it."""
    draw = np.random.default_rng(seed)
    size = (int(draw.integers(60, 140)), int(draw.integers(60, 140)))
    view = whole_view(size, (56, 56)) if seed % 2 else center_view(size, 64, (56, 56))
    grid = Grid((4.0, 4.0), (8.0, 8.0), (56, 56))
    values = draw.normal(size=(7, 7)).astype(np.float32)
    rows, columns = np.mgrid[: size[0], : size[1]]
    mask = np.hypot(rows - size[0] * 0.4, columns - size[1] * 0.6) < min(size) * 0.3
    found = shares(values, mask, grid, view)
    laid = lay_on_original(torch.from_numpy(values), grid.offset, grid.stride, view, outside=float("nan")).numpy()
    seen = np.isfinite(laid)
    evidence = np.maximum(np.nan_to_num(laid), 0)
    assert found["evidence_inside"] == pytest.approx(evidence[mask].sum() / evidence.sum(), abs=0.02)
    assert found["mask_share"] == pytest.approx(mask[seen].mean(), abs=0.02)
    nothing = shares(-np.ones((7, 7)), mask, grid, view)
    assert nothing["evidence_inside"] is None


def test_status_refuses_what_is_no_run_in_shards(tmp_path):
    folder = photos(tmp_path / "photos", 1)
    with pytest.raises(InputError, match="no run folder"):
        batch_status(folder)
    place = tmp_path / "run"
    place.mkdir()
    (place / MANIFEST).write_text('{"schema": 2, "phosphene": "x", "command": "explain"}')
    with pytest.raises(InputError, match="is no run in shards"):
        batch_status(place)
    assert isinstance(open_run(place), Run)


def test_shards_read_again_are_rows(tmp_path):
    folder = photos(tmp_path / "photos", 3)
    run(folder, tmp_path / "run", method="saliency")
    for row in open_run(tmp_path / "run"):
        assert row.size == (40, 48)
        (shown,) = row.maps
        assert shown.grid.size == (32, 32)
        assert shown.display == "positive"
        assert replace(row, maps=()).maps == ()
    assert picture(0).size == (48, 40)


def test_no_warning_where_all_is_well(tmp_path):
    folder = photos(tmp_path / "photos", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(folder, tmp_path / "run")


def test_of_several_true_classes_each_is_right(tmp_path):
    place = photos(tmp_path / "photos", 2)
    names = sorted(path.name for path in place.iterdir())
    other = " | ".join(LABELS)
    (tmp_path / "truth.csv").write_text(
        "path,label\n" + f"photos/{names[0]},{other}\nphotos/{names[1]},{LABELS[0]}|nothing\n"
    )
    with pytest.warns(PhospheneWarning, match="1 of 2 labels mean no class"):
        run(tmp_path / "truth.csv", tmp_path / "out", method="saliency")
    rows = table(tmp_path / "out")
    assert [(row["correct"], row["label_index"]) for row in rows] == [(True, None), (None, None)]
    found = summary([seen_of([row], ()) for row in rows], dict(enumerate(LABELS)))
    assert found.outcomes["right"] == 1
    assert found.confusions == ()


def test_yes_and_no_of_one_class_are_no_labels(tmp_path):
    place = photos(tmp_path / "photos", 2)
    lines = [f"photos/{path.name},{number % 2}" for number, path in enumerate(sorted(place.iterdir()))]
    (tmp_path / "truth.csv").write_text(f"path,{LABELS[1]}\n" + "\n".join(lines))
    with pytest.raises(OptionError, match="says of one class whether it is there"):
        run(tmp_path / "truth.csv", tmp_path / "out", method="saliency", label_column=LABELS[1], limit=2)
    assert not (tmp_path / "out").exists()


def test_zero_and_one_of_the_second_of_two_classes_and_no_label_at_all_are_no_yes_and_no(tmp_path):
    place = photos(tmp_path / "photos", 2)
    names = [f"photos/{path.name}" for path in sorted(place.iterdir())]
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    two = phosphene.Classifier(network, phosphene.Preprocess((32, 32), 32), ["benign", "malignant"])
    for column, labels, expected in [
        ("malignant", "01", [0, 1]),
        ("malignant", ["", ""], [None, None]),
        ("benign", "01", None),
    ]:
        rows = "".join(f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
        (tmp_path / "truth.csv").write_text(f"path,{column}\n{rows}")
        given = (two, tmp_path / "truth.csv", tmp_path / "out")
        options = {"method": "saliency", "label_column": column, "overwrite": True}
        if expected is None:
            with pytest.raises(OptionError, match="says of one class whether it is there"):
                phosphene.batch(*given, **options)
        else:
            phosphene.batch(*given, **options)
            assert [row["label_index"] for row in table(tmp_path / "out")] == expected


def test_where_no_picture_can_be_used_the_first_reason_is_told(tmp_path):
    (tmp_path / "truth.csv").write_text("path\nnowhere/a.png\nnowhere/b.png\n")
    words = r"no picture could be used; the first: .*a\.png: no such file; paths in .*truth\.csv are relative to"
    with pytest.warns(PhospheneWarning, match=words):
        run(tmp_path / "truth.csv", tmp_path / "out", method="saliency")
