"""The atlas of a small network: every page is there, every link leads somewhere, nothing is asked of others."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
from html.parser import HTMLParser
from operator import itemgetter
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

import phosphene
from phosphene.atlases import AtlasConfig, Desk, Work, run_atlas, stage
from phosphene.atlases.laid_out import in_cells, whitened
from phosphene.atlases.look import field_side, looks
from phosphene.cancel import Cancel
from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import (
    CancelledError,
    InputError,
    MissingExtraError,
    ModelError,
    OptionError,
    OutputError,
    ResourceError,
)
from phosphene.runtime import prepare
from phosphene.store import locked
from phosphene.zoo import ModelChoice
from tests.browsing import CHROMIUM, needs_chromium
from tests.cli.running import phosphene as command
from tests.networks import classifier_of, one_channel, pooled, vgg_f
from tests.transformers import VisionTransformer

HOSTILE = '<img src=x onerror="alert(1)">'
LABELS = ["ladybug", HOSTILE, "</script><script>alert(2)</script>", "größe & more", "javascript:alert(3)"]
FEW = {"channels": 4, "seeds": 2, "steps": 2, "channel_steps": 2, "grid": 3, "facets": 2}


def network(labels=LABELS) -> Classifier:
    return classifier_of(pooled(), (8, 8), labels=labels, name="small <b>network</b>")


def pictures(folder: Path, count: int = 6) -> Path:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = generator.integers(0, 255, (20, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / (f"{number}.png" if number else 'a "b" <i>#?&.png'))
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """(folder, answer) of an atlas with pictures, one of which is none."""
    place = tmp_path_factory.mktemp("atlas")
    folder = pictures(place / "photos")
    (folder / "broken.png").write_text("no picture")
    answer = phosphene.atlas(network(), folder, place / "site", layers=["2", "5"], **FEW)
    return place / "site", answer


class _Page(HTMLParser):
    """What a page refers to, and what it says."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.images, self.scripts, self.alts, self.tags = [], [], [], [], []
        self.ids: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        self.ids |= {given["id"]} if "id" in given else set()
        if tag in ("a", "link"):
            self.links.append(given["href"])
        if tag == "img":
            self.alts.append(given.get("alt"))
            self.images += [given["src"]] if "src" in given else []
        if tag == "script":
            self.scripts.append(given.get("src"))
        if "data-places" in given:
            self.images.append(given["data-places"])


def pages(folder: Path) -> dict[Path, _Page]:
    return {path: _Page(path) for path in sorted(folder.rglob("*.html"))}


def test_there_is_a_page_for_each_class_layer_and_channel(site):
    folder, answer = site
    names = {str(path.relative_to(folder)) for path in folder.rglob("*.html")}
    assert {"index.html", "layer/2.html", "layer/5.html", "layer/2/activations.html"} <= names
    assert {f"class/{index}.html" for index in range(5)} <= names
    assert len([name for name in names if re.fullmatch(r"layer/2/\d+\.html", name)]) == 4
    assert (answer["classes"], answer["layers"], answer["channels"], answer["pages"]) == (5, 2, 8, len(names))
    assert answer["pictures"] == 6
    assert [Path(one["path"]).name for one in answer["errors"]] == ["broken.png"]


def test_every_link_and_image_is_there_and_nothing_is_elsewhere(site):
    folder, _ = site
    found = pages(folder)
    for path, page in found.items():
        for address in [*page.links, *page.images, *page.scripts]:
            parts = urlsplit(address)
            assert parts.scheme in ("", "data"), (path, address)
            assert not parts.netloc
            assert not parts.path.startswith("/")
            if parts.scheme == "data":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), (path, address)
            assert target.is_relative_to(folder)
            if parts.fragment:
                assert parts.fragment in found[target].ids
    for asset in (folder / "assets").iterdir():
        assert not re.search(r"https?://|@import|url\(", asset.read_text("utf-8"))


def test_pages_say_what_their_pictures_are_and_fit_a_reader(site):
    for page in pages(site[0]).values():
        assert None not in page.alts
        assert [tag for tag, _ in page.tags].count("h1") == 1
        assert next(given for tag, given in page.tags if tag == "html")["lang"] == "en"
        lazy = [given for tag, given in page.tags if tag == "img" and "/" in given.get("src", "")]
        assert sum(given.get("loading") != "lazy" for given in lazy) <= 8


def test_hostile_names_are_text(site):
    folder, _ = site
    for path, page in pages(folder).items():
        assert all(source for source in page.scripts), path
        assert not [given for _, given in page.tags if any(name.startswith("on") for name in given)]
        assert not any(given.get("src") == "x" for _, given in page.tags)
    assert HOSTILE not in (folder / "assets" / "search.js").read_text("utf-8")
    assert "</script" not in (folder / "assets" / "search.js").read_text("utf-8")
    assert "&lt;img src=x" in (folder / "class" / "1.html").read_text("utf-8")


def keys(value, names):
    assert set(names) <= value.keys(), value.keys()


def test_index_json_has_the_documented_keys_and_names_files(site):
    folder, _ = site
    index = json.loads((folder / "index.json").read_text("utf-8"))
    keys(index, ("schema", "model", "recipe", "method", "pictures", "errors", "classes", "layers"))
    assert index["schema"] == 1
    assert [one["label"] for one in index["classes"]] == LABELS
    for one in index["classes"]:
        keys(one, ("index", "label", "id", "page", "data", "images"))
        assert len(one["images"]) == 2
        detail = json.loads((folder / one["data"]).read_text("utf-8"))
        keys(detail, ("impressions", "confused", "channels", "evidence"))
        keys(detail["confused"], ("head", "pictures"))
        assert 1 <= len(detail["evidence"]) <= 3
        files = [one["page"], *one["images"], *(shown["image"] for shown in detail["evidence"])]
        assert all((folder / name).is_file() for name in files)
    for layer in index["layers"]:
        keys(layer, ("name", "kind", "shape", "page", "data", "field", "classes_by", "activations", "channels"))
        detail = json.loads((folder / layer["data"]).read_text("utf-8"))
        keys(detail["channels"][0], ("index", "page", "image", "places", "classes", "related"))
        keys(detail["map"], ("grid", "count", "classes_by", "cells", "page"))
        assert sum(cell["count"] for cell in detail["map"]["cells"]) == detail["map"]["count"]
        keys(detail["facets"], ("map", "facets"))
        for channel in layer["channels"]:
            assert (folder / channel["page"]).is_file()
            with Image.open(folder / channel["image"]) as picture:
                assert picture.format == "WEBP"


def test_what_is_said_of_the_last_layer_is_in_the_heads_weights(site):
    folder, _ = site
    weight = network().module[-1].weight.detach()
    layer = json.loads((folder / "layer" / "5.json").read_text("utf-8"))
    assert layer["classes_by"] == "head"
    for channel in layer["channels"]:
        best = weight[:, channel["index"]].argmax()
        if channel["classes"]:
            assert channel["classes"][0]["index"] == int(best)
            assert channel["classes"][0]["value"] == pytest.approx(float(weight[best, channel["index"]]))
        else:
            assert float(weight[best, channel["index"]]) <= 0
    one = json.loads((folder / "class" / "3.json").read_text("utf-8"))
    others = [index for index in range(5) if index != 3]
    cosines = torch.cosine_similarity(weight[others], weight[3:4])
    assert one["confused"]["head"][0]["index"] == others[int(cosines.argmax())]
    assert one["confused"]["head"][0]["cosine"] == pytest.approx(float(cosines.max()), abs=1e-6)


def test_of_few_classes_those_are_read_beside_one_that_its_own_photographs_have(site):
    """Each of five classes is among the five best of every photograph."""
    folder, _ = site
    photographs = json.loads((folder / "index.json").read_text("utf-8"))["pictures"]
    for index in range(5):
        own = [dict(map(itemgetter("index", "probability"), one["predicted"])) for one in photographs]
        own = [one for one in own if max(one, key=one.get) == index]
        beside = json.loads((folder / "class" / f"{index}.json").read_text("utf-8"))["confused"]["pictures"]
        text = (folder / "class" / f"{index}.html").read_text("utf-8")
        assert {one["index"] for one in beside} == ({*range(5)} - {index} if own else set())
        for one in beside:
            mean = sum(shares[one["index"]] for shares in own) / len(own)
            assert one["probability"] == pytest.approx(mean, abs=1e-5)
            assert f'<rect width="{round(100 * mean, 1)}"' in text  # a bar is full at 1
        assert ("are read as" if own else "is read as") in text


def test_other_layers_speak_by_gradient_times_activation_and_are_strongest_where_told(site):
    folder, _ = site
    prepared = prepare(network())
    layer = json.loads((folder / "layer" / "2.json").read_text("utf-8"))
    assert layer["classes_by"] == "pictures"
    answers = {}
    for path in sorted((folder.parent / "photos").glob("*.png")):
        if path.name == "broken.png":
            continue
        picture = phosphene.read_image(path)
        image = prepared.preprocessed([picture], prepared.views([picture]))
        # The literal version: autograd through the modules themselves.
        net, values = network().module, prepared.preprocess.normalize(image)
        at = net[:3](values).detach().requires_grad_()
        logits = net[3:](at)
        logits[0, logits.argmax()].backward()
        answers[path.name] = (at.detach()[0], (at * at.grad).detach()[0].sum(dim=(1, 2)), int(logits.argmax()))
    for channel in layer["channels"]:
        index = channel["index"]
        peaks = {
            name: float(values[index].max()) for name, (values, _, _) in answers.items() if values[index].max() > 0
        }
        told = [(place["name"], place["value"]) for place in channel["places"]]
        assert [name for name, _ in told] == sorted(peaks, key=peaks.get, reverse=True)
        assert [value for _, value in told] == pytest.approx(sorted(peaks.values(), reverse=True), rel=1e-4)
        means = {}
        for best in {best for *_, best in answers.values()}:
            means[best] = np.mean([float(by[index]) for _, by, own in answers.values() if own == best])
        told = {one["index"]: one["value"] for one in channel["classes"]}
        assert told == pytest.approx({one: value for one, value in means.items() if value > 0}, rel=1e-3, abs=1e-6)


def files(folder: Path) -> dict[str, bytes]:
    """All but the manifest, which knows the time."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def test_a_killed_atlas_is_gone_on_with_and_ends_with_the_same_bytes(site, tmp_path):
    folder, _ = site
    whole, half = files(folder), tmp_path / "half"
    shutil.copytree(folder, half)
    # What a kill leaves: pages and later parts that are not there, a part without its record, half of a file.
    gone = [name for name in whole if name.endswith(".html") or "map-" in name or "channels-2-00000.json" in name]
    for name in [*gone, "class/1/0.webp", "material/classes-00000.json"]:
        (half / name).unlink()
    (half / "class" / ".x.partial").write_bytes(b"half")
    again = {"layers": ["2", "5"], **FEW}
    with pytest.raises(OptionError, match="exists already; add --overwrite"):
        phosphene.atlas(network(), folder.parent / "photos", half, **again)
    with locked(str(half)), pytest.raises(OutputError, match="another process is writing this run"):
        phosphene.atlas(network(), folder.parent / "photos", half, resume=True, **again)
    phosphene.atlas(network(), folder.parent / "photos", half, resume=True, **again)
    assert files(half) == whole


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"channel_steps": 3}, "channel_steps"),
        ({"layers": ["5"]}, "layers"),
        ({"classes": [0, 1]}, "classes"),
        ({"seed": 1}, "seed"),
        ({"limit": 3}, "set of pictures: 4 missing"),
    ],
)
def test_another_plan_is_refused_and_the_difference_named(site, changed, named):
    folder, _ = site
    options = {"layers": ["2", "5"], **FEW, **changed}
    with pytest.raises(OptionError, match=rf"another .*{re.escape(named)}"):
        phosphene.atlas(network(), folder.parent / "photos", folder, resume=True, **options)


def test_it_stops_between_steps_and_keeps_what_was_finished(tmp_path):
    cancel, said = Cancel(), []

    def progress(done, total, text):
        said.append(text)
        if done == 1:
            cancel.cancel()

    choice = ModelChoice(network())
    config = AtlasConfig(layers=("5",), channels="2", seeds=2, steps=2, channel_steps=2)
    with pytest.raises(CancelledError):
        run_atlas(config, choice, [], str(tmp_path / "site"), progress=progress, cancel=cancel)
    assert [path.name for path in (tmp_path / "site" / "material").iterdir()] == ["classes-00000.json"]
    assert json.loads((tmp_path / "site" / "manifest.json").read_text())["complete"] is False
    run_atlas(config, choice, [], str(tmp_path / "site"), resume=True)
    assert (tmp_path / "site" / "index.html").is_file()


def test_any_worker_can_draw_a_part(site, tmp_path):
    folder, _ = site
    config = AtlasConfig(layers=("5",), channels="2", seeds=1, steps=2, channel_steps=2, grid=2, facets=0)
    source = phosphene.atlases.desk.open_pictures([str(folder.parent / "photos")])
    checked = config.checked(prepare(network()))
    work = Work(str(tmp_path), ModelChoice(network()), checked, (str(folder.parent / "photos"),), tuple(source.keys()))
    parts = 0
    for number in range(3):
        for part in stage(Desk(pickle.loads(pickle.dumps(work))), number):
            worker, own = pickle.loads(pickle.dumps((work, part)))
            Desk(worker).make(own)
            parts += 1
    assert parts == len(list((tmp_path / "material").glob("*.json"))) >= 5


# (Of layer 5 there are 48 places in three pictures, which are soon laid out.)
DRAWN = {"classes": [0, 1], "channels": 2, "seeds": 1, "steps": 2, "channel_steps": 2, "threads": 1}


@pytest.fixture(scope="module")
def drawn_here(tmp_path_factory):
    """(photographs, files) of an atlas that this process alone has drawn."""
    place = tmp_path_factory.mktemp("here")
    folder = pictures(place / "photos", 3)
    phosphene.atlas(classifier_of(vgg_f()), folder, place / "site", layers=["5"], grid=2, facets=0, **DRAWN)
    return folder, files(place / "site")


def test_workers_draw_the_same(drawn_here, tmp_path):
    folder, same = drawn_here
    network = classifier_of(vgg_f())
    phosphene.atlas(network, folder, tmp_path / "site", layers=["5"], grid=2, facets=0, workers=2, **DRAWN)
    assert files(tmp_path / "site") == same


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_cluster_draws_the_same(drawn_here, tmp_path):
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra [ray])")
    folder, same = drawn_here
    told, given = [], {"layers": ["5"], "grid": 2, "facets": 0, **DRAWN}
    with pytest.raises(ResourceError, match="no cluster"):
        phosphene.atlas(classifier_of(vgg_f()), folder, tmp_path / "site", ray="127.0.0.1:1", **given)
    assert not (tmp_path / "site").exists()
    phosphene.atlas(
        classifier_of(vgg_f()),
        folder,
        tmp_path / "site",
        ray="local",
        workers=2,
        progress=lambda *one: told.append(one),
        **given,
    )
    assert not ray.is_initialized()
    assert files(tmp_path / "site") == same
    assert told[:2] == [(0, 1, "look-0000"), (0, 1, "look-0000, 0/3")]  # a part alone is drawn here
    assert [done for done, total, _ in told if total > 1] == [1, 2, 3, 4]


def test_without_ray_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ray\[data\]"):
        phosphene.atlas(classifier_of(vgg_f()), out=tmp_path / "site", layers=["1"], ray="local", **DRAWN)
    with pytest.raises(OptionError, match="--num-gpus is for Ray"):
        phosphene.atlas(classifier_of(vgg_f()), out=tmp_path / "site", layers=["1"], num_gpus=1, **DRAWN)
    assert not (tmp_path / "site").exists()


def test_a_part_of_which_workers_go_on_dying_ends_the_atlas(tmp_path):
    (tmp_path / "mortal.py").write_text(
        "import os, signal\nfrom tests.networks import classifier_of, vgg_f\n\n"
        "def make():\n    if os.environ['DRIVER'] != str(os.getpid()):\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return classifier_of(vgg_f())\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRIVER", str(os.getpid()))
        with pytest.raises(ResourceError, match=r"classes-00000: 3 workers died of it \(killed by SIGKILL"):
            phosphene.atlas(f"{tmp_path / 'mortal.py'}:make", out=tmp_path / "site", layers=["1"], workers=1, **DRAWN)
    assert not [path for path in (tmp_path / "site").rglob("*") if "partial" in path.name]


def test_the_command_says_what_it_drew(tmp_path):
    (tmp_path / "small.py").write_text(
        "from tests.networks import classifier_of, vgg_f\n\ndef make():\n    return classifier_of(vgg_f())\n"
    )
    model = ("--model", f"{tmp_path / 'small.py'}:make")
    few = ("--classes", "0, 2", "--classes", "4", "--layers", "1", "--channels", "1,3", "--seeds", 1)
    short = ("--steps", 2, "--channel-steps", 2, "--out", tmp_path / "site")
    done = command("atlas", *model, *few, *short, "--json")
    assert done.code == 0, done.err
    assert {"run", "index", "seconds", "bytes", "pages", "errors", "cells"} <= done.json.keys()
    assert (done.json["classes"], done.json["channels"], done.json["pictures"]) == (3, 2, 0)
    assert Path(done.json["index"]).is_file()
    again = command("atlas", *model, *few, *short)
    assert again.code == 2
    assert "exists already" in again.err
    assert command("atlas", *model, *few, *short, "--resume").code == 0
    refused = command("atlas", *model, *few, *short, "--resume", "--seed", 5)
    assert refused.code == 2
    assert "was made with another seed" in refused.err
    assert "No such option" in command("atlas", "--report", "single").err  # it is a site already


def test_without_pictures_and_without_a_linear_head(tmp_path):
    answer = phosphene.atlas(classifier_of(vgg_f()), out=tmp_path / "site", layers=["1"], classes=[0, 3], **FEW)
    assert (answer["classes"], answer["channels"], answer["cells"], answer["pictures"]) == (2, 4, 0, 0)
    text = (tmp_path / "site" / "class" / "3.html").read_text("utf-8")
    assert "No photographs were given" in text
    assert "class/3.json" in (tmp_path / "site" / "index.json").read_text("utf-8")
    for path, page in pages(tmp_path / "site").items():
        assert all((path.parent / unquote(name)).is_file() for name in page.images)


@pytest.mark.filterwarnings("ignore:a picture in color is shown to a network of one channel")
@pytest.mark.parametrize(
    ("classifier", "layer"),
    [
        (lambda: classifier_of(VisionTransformer()), "blocks.1"),
        (lambda: classifier_of(pooled(), None), "5"),
        (lambda: classifier_of(pooled(1), (8, 8), head="score"), "2"),
        (lambda: one_channel((8, 8)), "0"),
        (lambda: classifier_of(pooled(1), (8, 8), labels=["no", "yes"], head="sigmoid"), "5"),
    ],
    ids=["tokens", "any size", "plain scores", "gray", "one output of two classes"],
)
def test_networks_of_other_kinds(site, tmp_path, classifier, layer):
    made = classifier()
    folder = site[0].parent / "photos"
    least = {**FEW, "classes": [len(made.labels) - 1 if made.labels else 0], "channels": 1, "seeds": 1, "grid": 2}
    if made.preprocess.size is None:  # is drawn at 224 x 224, which takes the recipe that draws companions long
        least["recipe"] = "class_model:preset=paper"
    answer = phosphene.atlas(made, folder, tmp_path / "site", layers=[layer], limit=2, **least)
    assert answer["channels"] >= 1
    assert answer["cells"] > 1
    text = (tmp_path / "site" / "index.html").read_text("utf-8")
    assert ("\u00a0%" in text) == (made.head != "score")


def test_what_cannot_be_done_is_refused(tmp_path):
    few = {"steps": 2, "channel_steps": 2}
    with pytest.raises(ModelError, match="layer 9 has no places"):
        phosphene.atlas(network(), out=tmp_path / "a", layers=["9"], **few)
    with pytest.raises(OptionError, match="no channel 8 in layer 5; it has 8"):
        phosphene.atlas(network(), out=tmp_path / "a", layers=["5"], channels=[1, 8], **few)
    with pytest.raises(OptionError, match="--channels some"):
        phosphene.atlas(network(), out=tmp_path / "a", channels="some", **few)
    with pytest.raises(OptionError, match="ladybird"):
        phosphene.atlas(network(), out=tmp_path / "a", classes="ladybird", **few)
    with pytest.raises(OptionError, match="seeds 0"):
        phosphene.atlas(network(), out=tmp_path / "a", seeds=0, **few)
    assert not (tmp_path / "a").exists()
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.png").write_text("no picture")
    with pytest.raises(InputError, match="none of the 1 pictures can be read"):
        phosphene.atlas(network(), tmp_path / "none", tmp_path / "a", **few)


def test_points_lie_in_cells_and_directions_leave_out_what_is_common():
    generator = np.random.default_rng(0)
    cells = in_cells(generator.normal(size=(500, 2)), 5)
    assert cells.min() == 0
    assert cells.max() == 4
    values = (generator.normal(size=(400, 3)) * [0.1, 0.1, 0.1] + [5, 0, 0]).astype(np.float32)
    mean = np.array([5, 0.3, 0], np.float32)
    (direction,) = whitened([mean], values)
    assert direction[1] / direction[0] > 5 * mean[1] / mean[0]


def test_the_field_of_a_convolution_is_its_kernel():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 9, padding=4), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )
    prepared = prepare(Classifier(net, Preprocess((33, 33))))
    assert 7 <= field_side(prepared, "0", torch.rand(1, 3, 33, 33)) <= 9


def test_each_picture_is_looked_at_once():
    keys = [f"{number}.jpg" for number in range(70)]
    parts = looks(keys, 32)
    assert [key for part in parts for key in part.keys] == keys
    assert [part.first for part in parts] == [0, 32, 64]


@needs_chromium
@pytest.mark.parametrize("name", ["index.html", "class/1.html", "class/2.html", "layer/5/activations.html#0-0"])
def test_a_browser_opens_it_from_disk_without_a_word(site, name, tmp_path):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    done = subprocess.run(
        [*command, f"--user-data-dir={tmp_path}", "--dump-dom", f"{site[0].as_uri()}/{name}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "<h1>" in done.stdout
    assert not re.findall(r"CONSOLE.*", done.stderr)
    if "activations" in name and 'data-row="0" data-column="0"' in done.stdout:
        assert 'aria-pressed="true"' in done.stdout
