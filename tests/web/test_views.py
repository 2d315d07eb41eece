"""Every view with real pictures: its answers are the library's, and the calls that it shows give the same."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from phosphene.errors import NotFoundError, OptionError, PhospheneError
from phosphene.runs.demo import demo_pictures
from phosphene.web import views
from phosphene.web.asks import AuditAsk, CompareAsk, ExplainAsk, LayerAsk, LocateAsk, RememberAsk
from phosphene.web.audited import Audited
from phosphene.web.pictures import Chosen, upload
from phosphene.web.views.frame import in_page, render
from phosphene.web.worker import State
from tests.cli.running import phosphene as command
from tests.web.reading import Answer, array_of, bytes_of


def last(values):
    *_, value = values
    return Answer(value)


@pytest.fixture
def cat(desk):
    return desk.packaged.chosen("chelsea.png")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder that holds what the shown calls read, as the working one."""
    shutil.copy(next(path for path in demo_pictures() if path.name == "chelsea.png"), tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def executed(code):
    """What the shown lines of Python leave behind."""
    names = {}
    exec(code, names)
    return names


def run_json(line, here):
    """The JSON of the shown command."""
    words = shlex.split(line)
    assert words[0] == "phosphene"
    outcome = command(*words[1:], "--json", "--out", here / f"out-{len(list(here.iterdir()))}", "--report", "none")
    assert outcome.code == 0, outcome.err
    return outcome.json


@pytest.mark.parametrize(
    "ask",
    [
        ExplainAsk(methods=("cam", "grad_cam"), layer="blocks.10"),
        ExplainAsk(methods=("input_x_gradient",), classes="282", view="whole"),
        ExplainAsk(methods=("cam",), classes="top3"),
        ExplainAsk(methods=("cam", "grad_cam"), classes="281", versus="287"),
    ],
    ids=["several", "class", "top3", "versus"],
)
def test_explain_and_the_calls_it_shows(ask, desk, cat, job, here):
    found = last(views.explain(desk, ask, cat, job))
    maps = found.arrays(desk.shelf)
    names = executed(found.calls["python"])
    made = names["maps"]
    if ask.versus:  # of each method the one, the other, the difference; the lines end with the last method
        same = [part.maps[0] for part in made.parts]
        mine = maps[-3:]
    else:
        same = [part.maps[row] for row in range(len(made[0])) for part in made]
        mine = maps
    assert len(mine) == len(same)
    for own, other in zip(mine, same, strict=True):
        np.testing.assert_allclose(own, other.numpy(), rtol=1e-4, atol=1e-5 * float(np.abs(own).max()))
    assert (here / "maps.png").is_file()
    (image,) = run_json(found.calls["command"], here)["images"]
    rows = [part for row in image["maps"] for part in (*row.get("beside", ()), row)]
    for own, row in zip(maps, rows, strict=True):
        np.testing.assert_allclose(own, np.load(row["map"]), rtol=1e-4, atol=1e-5 * float(np.abs(own).max()))


def test_explain_shows_each_method_when_it_is_done(desk, cat, job):
    shown = [Answer(html) for html in views.explain(desk, ExplainAsk(methods=("cam", "grad_cam")), cat, job)]
    assert [len(answer.stacks) for answer in shown] == [1, 2]
    assert "grad_cam" in shown[0].text


def test_all_that_is_seen_has_words(desk, cat, job):
    answers = [
        last(views.explain(desk, ExplainAsk(methods=("cam",)), cat, job)),
        last(views.locate(desk, LocateAsk(methods=("cam",), segment="threshold"), cat, job)),
        last(views.activations(desk, LayerAsk(layer="blocks.5", count=4), cat, job)),
        last(views.compare(desk, CompareAsk(other_method="cam"), cat, job)),
        last(views.audit(desk, AuditAsk(), job)),
    ]
    for answer in answers:
        assert answer.images
        assert all("alt" in image for image in answer.images)
        # A picture without words is one that another one lies on, or a color scale whose ends are written.
        silent = [image for image in answer.images if not image["alt"]]
        assert all(image.get("class") == "base" or "scale" in str(image["src"]) for image in silent)
    assert all(stack["aria-label"] and stack["tabindex"] == "0" for stack in answers[0].stacks)


def test_what_a_reader_of_a_map_reads_is_the_map(desk, cat, job):
    """The facts beside a map say where each of its cells lies on the picture."""
    from phosphene.geometry import lay_on_original
    from phosphene.types import View

    (stack,) = last(views.explain(desk, ExplainAsk(methods=("cam",)), cat, job)).stacks
    facts, values = json.loads(stack["data-reading"]), array_of(desk.shelf, stack["data-npy"])
    view = View(tuple(facts["original"]), tuple(facts["scaled"]), tuple(facts["crop"]))
    laid = lay_on_original(torch.from_numpy(values), facts["offset"], facts["stride"], view)
    from phosphene import explain

    same = explain("embedded", bytes_picture(cat), "cam")
    again = lay_on_original(same.maps[0], same.offset, same.stride, same.views[0])
    torch.testing.assert_close(laid, again, rtol=1e-4, atol=1e-4)


def bytes_picture(chosen):
    return chosen.item(3).picture


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (ExplainAsk(methods=()), "choose a method"),
        (ExplainAsk(methods=("cam:depth=3",)), "depth"),
        (ExplainAsk(methods=("gradcam",)), "did you mean"),
        (ExplainAsk(classes="unicorn"), "unicorn"),
        (ExplainAsk(classes="top50"), "5 best"),
        (ExplainAsk(methods=("cam",) * 9), "8 at once"),
        (ExplainAsk(layer="blocks.99"), "blocks.99"),
        (ExplainAsk(model="timm:resnet50"), "no model 'timm:resnet50' here"),
        (ExplainAsk(classes="281", versus="281"), "is the class itself"),
    ],
)
def test_explain_refuses_in_one_line(ask, error, desk, cat, job):
    with pytest.raises(PhospheneError, match=error):
        last(views.explain(desk, ask, cat, job))


@pytest.fixture
def quick(monkeypatch):
    """Channels drawn in a few steps."""
    module = import_module("phosphene.web.views.place")  # (its function has its name)
    monkeypatch.setattr(module, "_DRAWING", "class_impression:steps=3")


def test_of_one_output_each_class_is_spoken_for_by_the_channels_that_add_to_it():
    from phosphene import Classifier, Preprocess, prepare

    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 1)
    )
    with torch.no_grad():
        module[-1].weight.copy_(torch.tensor([[-2.0, 1.0, 3.0, -0.5]]))
    classifier = prepare(Classifier(module, Preprocess((8, 8)), ["dog", "wolf"], "sigmoid"))
    speaks_for = import_module("phosphene.web.views.place")._speaks_for
    assert speaks_for(classifier, "0", 0) == [{"label": "dog", "weight": 2.0}, {"label": "wolf", "weight": -2.0}]
    assert speaks_for(classifier, "0", 2) == [{"label": "wolf", "weight": 3.0}, {"label": "dog", "weight": -3.0}]


def test_a_place_shows_the_channels_that_are_strongest_there(desk, cat, job, quick):
    ask = ExplainAsk(layer="blocks.5", at=(0.5, 0.5))
    first = Answer(next(views.place(desk, ask, cat, job)))
    from phosphene import capture, load_classifier, prepare

    classifier = prepare(load_classifier("embedded"))
    picture = bytes_picture(cat)
    with capture(classifier.module, ["blocks.5"]) as found:
        classifier.logits(classifier.preprocessed([picture], classifier.views([picture])))
    values = found["blocks.5"][0]
    strongest = values[:, values.shape[1] // 2, values.shape[2] // 2].argsort(descending=True)[:4].tolist()
    for channel in strongest:
        assert any(f"channel {channel} of blocks.5" in str(image["alt"]) for image in first.images)
    drawn = last(views.place(desk, ask, cat, job))
    assert sum("drawn so that" in str(image["alt"]) for image in drawn.images) == 4
    assert desk.channels.get(("embedded", "blocks.5", strongest[0])) is not None


@pytest.mark.parametrize("view", ["center", "whole"])
def test_the_calls_of_a_place_give_what_is_shown(view, desk, cat, job, here, quick):
    from PIL import Image

    desk.channels._made.clear()
    found = last(views.place(desk, ExplainAsk(layer="blocks.5", view=view, at=(0.5, 0.5)), cat, job))
    (values,) = found.arrays(desk.shelf)
    names = executed(found.calls["python"])
    np.testing.assert_allclose(values, names["found"]["blocks.5"][0].numpy(), rtol=1e-3, atol=1e-3)
    shown = [bytes_of(desk.shelf, str(image["src"])) for image in found.images if "drawn so that" in str(image["alt"])]
    assert len(shown) == len(names["drawn"]) == 4
    for content, image in zip(shown, names["drawn"], strict=True):
        seen = np.asarray(Image.open(io.BytesIO(content)), np.float32) / 255
        assert np.abs(seen - image.movedim(0, -1).numpy()).mean() < 0.03  # a JPEG
    lines = found.calls["command"].splitlines()
    if view == "center":  # the command has no other
        (row,) = run_json(lines.pop(0), here)["layers"]
        np.testing.assert_allclose(values, np.load(row["array"]), rtol=1e-3, atol=1e-3)
    assert len(lines) == 4
    (made,) = run_json(lines[0], here)["impressions"]
    seen = np.asarray(Image.open(io.BytesIO(shown[0])), np.float32) / 255
    assert np.abs(seen - np.asarray(Image.open(made["image"]), np.float32) / 255).mean() < 0.03


def test_a_place_that_was_not_seen_is_refused(desk, cat, job):
    with pytest.raises(OptionError, match="did not see this place"):
        last(views.place(desk, ExplainAsk(at=(0.01, 0.5)), cat, job))


def test_a_channel_that_is_silent_at_the_start_is_drawn_before_its_relu(desk, job, quick):
    from phosphene.web.views.place import draw_channel

    drawn = draw_channel(desk.classifier(""), "head", 700, job)
    assert np.asarray(drawn.image.content).std() > 5
    assert drawn.layer != "head"


def test_locate_and_the_calls_it_shows(desk, cat, job, here):
    ask = LocateAsk(classes="top2", methods=("cam",), segment="threshold")
    found = last(views.locate(desk, ask, cat, job))
    coco = json.loads(bytes_of(desk.shelf, next(link for link in found.links if link.endswith("coco.json"))))
    names = executed(found.calls["python"])
    boxes = [tuple(thing["bbox"]) for thing in coco["annotations"]]
    same = [(box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0) for box in (thing.box for thing in names["found"])]
    assert boxes == same
    assert [thing["mask"] for thing in coco["annotations"]] == [
        link.split("/")[-1] for link in found.links if link.endswith("-mask.png")
    ]
    (image,) = run_json(found.calls["command"], here)["images"]
    assert [thing["box"] for thing in image["objects"]] == [
        [x, y, x + width, y + height] for x, y, width, height in boxes
    ]


@pytest.mark.parametrize("how", ["stopped", "failed"])
@pytest.mark.parametrize(
    ("view", "ask", "slow", "left"),
    [
        (views.locate, LocateAsk(methods=("cam",)), "phosphene.tasks.objects.attribute", 5),
        (views.locate, LocateAsk(methods=("cam",), classes="top3"), "phosphene.tasks.locate.cut_out", 2),
        (views.activations, LayerAsk(layer="blocks.5"), "phosphene.tasks.activations.activations", 0),
        (views.activations, LayerAsk(layer="blocks.5"), "phosphene.tasks.activations.channel_grid", 0),
    ],
)
def test_a_stop_and_the_time_limit_take_hold_after_the_step_under_way(view, ask, slow, left, how, desk, cat):
    calls, jobs = [], []
    place, name = slow.rsplit(".", 1)
    step = getattr(import_module(place), name)

    def counted(*given, **more):
        calls.append(name)
        (job,) = jobs
        if how == "stopped":
            job.cancel.cancel()
        else:
            job.seconds = 0.0
        return step(*given, **more)

    def work(job):
        jobs.append(job)
        yield from view(desk, ask, cat, job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module(place), name, counted)
        job = desk.worker.submit("test", work)
        assert job.over.wait(120)
    assert (job.state.status, job.state.value) == (how, None)
    assert len(calls) == 1
    # Without either there are more steps.
    if left:
        calls.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(import_module(place), name, lambda *given, **more: calls.append(name) or step(*given, **more))
            assert desk.worker.submit("test", lambda job: view(desk, ask, cat, job)).result(120)
        assert len(calls) == 1 + left


@pytest.mark.parametrize(
    "ask",
    [
        RememberAsk(classes=("301",), steps=3, recipe="class_model", seed=5),
        RememberAsk(classes=("8", "0"), fuse=True, steps=3),
    ],
    ids=["impress", "fuse"],
)
def test_remember_and_the_calls_it_shows(ask, desk, job, here):
    found = last(views.remember(desk, ask, job))
    names = executed(found.calls["python"])
    from PIL import Image

    image = next(link for link in found.links if link.endswith(".png"))
    (here / "page.png").write_bytes(bytes_of(desk.shelf, image))
    shown = np.asarray(Image.open(here / "page.png"), np.float32) / 255
    made = names["made"][0].image.movedim(0, -1).numpy()
    assert np.abs(shown - made).max() < 0.02
    (row,) = run_json(found.calls["command"], here)["impressions"]
    assert np.abs(np.asarray(Image.open(row["image"]), np.float32) / 255 - shown).max() < 0.02


def test_images_are_seen_growing_and_a_stop_keeps_what_there_is(desk):
    seen = []

    def work(job):
        tell = job.tell

        def listen(**news):
            tell(**news)
            if "growing, step" in str(news.get("value", "")):
                seen.append(news["value"])
                job.cancel.cancel()

        job.tell = listen
        yield from views.remember(desk, RememberAsk(classes=("301",), recipe="class_model", steps=400), job)

    job = desk.worker.submit("test", work)
    assert job.over.wait(120)
    assert job.state.status == "stopped"
    assert len(seen) == 1
    assert Answer(seen[0]).images[0]["src"].startswith("data:image/jpeg;base64,")
    assert "this is what there was" in job.state.value


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (RememberAsk(), "choose one to 4"),
        (RememberAsk(classes=("1", "2", "3", "4", "5")), "choose one to 4"),
        (RememberAsk(classes=("1",), fuse=True), "two classes or more"),
        (RememberAsk(classes=("1",), steps=100_000), "up to 600"),
        (RememberAsk(classes=("1",), recipe="minds_eye"), "features"),
    ],
)
def test_remember_refuses_in_one_line(ask, error, desk, job):
    with pytest.raises(PhospheneError, match=error):
        last(views.remember(desk, ask, job))


def test_activations_and_the_calls_they_show(desk, cat, job, here):
    found = last(views.activations(desk, LayerAsk(layer="blocks.5", count=6), cat, job))
    (values,) = found.arrays(desk.shelf)
    names = executed(found.calls["python"])
    np.testing.assert_allclose(values, names["found"]["blocks.5"][0].numpy(), rtol=1e-3, atol=1e-3)
    (row,) = run_json(found.calls["command"], here)["layers"]
    np.testing.assert_allclose(values, np.load(row["array"]), rtol=1e-4, atol=1e-4)


def test_features_of_uploaded_pictures_and_the_calls_they_show(desk, job, here):
    pictures = [Chosen(path.name, path.read_bytes()) for path in demo_pictures()]
    ask = LayerAsk(layer="blocks.2", show="features", facets=2, exemplars=2, steps=2)
    found = last(views.features(desk, ask, [*pictures, Chosen("cut.png", pictures[0].content[:90_000])], job))
    assert "cut.png: damaged or cut short" in found.text
    assert "/tmp" not in found.text
    (here / "pictures").mkdir()
    for picture in pictures:
        (here / "pictures" / picture.name).write_bytes(picture.content)
    made = executed(found.calls["python"])["found"][0]
    drawn = [link for link in found.links if link.endswith(".png")]
    assert len(drawn) == len(made.facets) == 2
    (row,) = run_json(found.calls["command"], here)["layers"]
    assert len(row["facets"]) == 2


def test_features_refuse_too_few_and_hostile_pictures(desk, job):
    one = Chosen("a.png", demo_pictures()[0].read_bytes())
    with pytest.raises(PhospheneError, match="too few for 2 facets"):
        last(views.features(desk, LayerAsk(show="features"), [one], job))
    with pytest.raises(PhospheneError, match=r"b\.png: not an image"):
        last(views.features(desk, LayerAsk(show="features", facets=1, exemplars=1), [one, Chosen("b.png", b"x")], job))


def test_compare_and_the_calls_it_shows(desk, cat, job, here):
    found = last(
        views.compare(desk, CompareAsk(method="cam", other_method="input_x_gradient", classes="282"), cat, job)
    )
    names = executed(found.calls["python"])
    for own, other in zip(found.arrays(desk.shelf), (names["one"], names["other"]), strict=True):
        np.testing.assert_allclose(own, other.maps[0].numpy(), rtol=1e-4, atol=1e-5 * float(np.abs(own).max()))
    for line, own in zip(found.calls["command"].splitlines(), found.arrays(desk.shelf), strict=True):
        (image,) = run_json(line, here)["images"]
        np.testing.assert_allclose(own, np.load(image["maps"][0]["map"]), rtol=1e-4, atol=1e-6)
    same = last(views.compare(desk, CompareAsk(method="cam", other_method="cam"), cat, job))
    assert "1.00" in same.text


def test_audit_filters_sorts_and_shows(desk, job, audited_run, monkeypatch):
    everything = last(views.audit(desk, AuditAsk(), job))
    assert "5 of 5 pictures" in everything.text
    assert "1 failed" in everything.text
    assert "not an image that can be read" in everything.text
    wrong = last(views.audit(desk, AuditAsk(show="wrong"), job))
    assert "1 of 5" in wrong.text
    assert "but is Egyptian cat" in wrong.text
    run = desk.run("tour")
    unsure = [facts.probability for facts in run.chosen(sort="unsure") if facts.status == "ok"]
    assert unsure == sorted(unsure)
    assert [facts.path.split("/")[-1] for facts in run.chosen(find="ESPRESSO")] == ["coffee.png"]
    (raw,) = last(views.audit(desk, AuditAsk(find="espresso"), job)).arrays(desk.shelf)
    np.testing.assert_array_equal(raw, np.load(next(audited_run.glob("*coffee/*.npy"))))
    monkeypatch.chdir(audited_run.parent)
    executed(everything.calls["python"])
    assert command(*shlex.split(everything.calls["command"])[1:]).code == 0
    with pytest.raises(NotFoundError, match=r"no run '\.\./\.\./etc'"):
        last(views.audit(desk, AuditAsk(run="../../etc"), job))
    with pytest.raises(OptionError, match="choose all"):
        last(views.audit(desk, AuditAsk(show="secret"), job))


def test_names_that_are_no_utf8_are_spelled_out_wherever_they_stand(tmp_path, desk, job):
    folder, run = (Path(os.fsdecode(os.fsencode(tmp_path) + name)) for name in (b"/odd\xff", b"/run\xff"))
    try:
        folder.mkdir()
    except OSError:  # pragma: no cover
        pytest.skip("this file system takes no such name")
    shutil.copy(demo_pictures()[0], folder / os.fsdecode(b"bad\xff.png"))
    (folder / os.fsdecode(b"no\xff.png")).write_bytes(b"")
    assert command("predict", folder, "--out", run, "--report", "none").code == 1  # the empty one
    audited = Audited.of(str(run), desk.classifier("").labels)
    with_run = replace(desk, runs={audited.name: audited})
    *_, html = views.audit(with_run, AuditAsk(run=audited.name), job)
    html.encode()
    assert audited.name == "run\\udcff"
    found = Answer(html)
    assert "bad\\udcff.png" in found.text
    assert "no picture in this run" not in found.text  # no box where no picture of the run has one
    assert "button" not in found.tags[: found.tags.index("details")]  # nor pages to turn
    assert re.search(r"no\\udcff\.png\s+is empty \(0 bytes\)", found.text)  # the name is not said twice
    found = last(
        views.explain(desk, ExplainAsk(methods=("cam",)), upload(str(folder / os.fsdecode(b"bad\xff.png"))), job)
    )
    assert "bad\\udcff.png" in found.calls["command"]
    render("status", state=State("failed", text="\udcff"), left="", address="").encode()


def test_errors_name_the_fields_of_the_page():
    said = in_page("--versus 281: is the class itself; name another to tell it apart from")
    assert said == "Rather than 281: is the class itself; name another to tell it apart from"


def test_a_file_name_is_text_in_the_answer(desk, job):
    content = desk.packaged.chosen("coffee.png").content
    name = "<img src=x onerror=alert(1)>{{7*7}}${1}.png"
    html = list(views.explain(desk, ExplainAsk(methods=("cam",)), Chosen(name, content), job))[-1]
    assert "<img src=x" not in html
    assert "49.png" not in html


def test_a_run_in_shards_is_audited_too(tmp_path, desk):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    outcome = command("batch", "explain", demo_pictures()[0].parent / "chelsea.png", "--out", tmp_path / "shards",
                      "--method", "cam", "--overlays", "--workers", "0")  # fmt: skip
    assert outcome.code == 0, outcome.err
    run = Audited.of(str(tmp_path / "shards"), desk.classifier("").labels)
    assert [facts.best for facts in run.facts] == ["tiger cat"]
    assert not run.is_cut
    (row,) = run.rows
    assert run.content(row.maps[0].overlay).content[:2] == b"\xff\xd8"
