"""Wrong input is answered with exit 2 and one line, before any time is spent, and leaves no run folder."""

from __future__ import annotations

import sys

import pytest
from PIL import Image
from skimage.data import chelsea

from tests.cli.running import phosphene


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "none.jpg"], "none.jpg: no such file"),
        (["explain", "none/"], "none/: no such file or folder"),
        (["explain", "empty"], "empty: holds no picture file"),
        (["explain", "none-*.jpg"], "no picture fits this pattern"),
        (["predict", "none.jpg", "gone.jpg"], "none.jpg: no such file"),
        (["locate", "none.jpg"], "none.jpg: no such file"),
        (["activations", "none.jpg"], "none.jpg: no such file"),
        (["features", "none/"], "none/: no such file or folder"),
        (["features", "empty"], "empty: holds no picture file"),
        (["head", "none/"], "none"),
        (["evaluate", "faithfulness", "--images", "none/"], "none: no such file or folder"),
        (["evaluate", "sanity", "--images", "empty"], "empty: holds no picture file"),
        (["evaluate", "localization", "--images", "none/", "--boxes", "b.csv"], "none: no such folder"),
        (["explain", "none.jpg", "--model", "net.py"], "net.py: no such file"),
        (["explain", "none.jpg", "--model", "resnet50"], "did you mean torchvision:resnet50"),
        (["explain", "none.jpg", "--model", "none.pt"], "none.pt: no such file"),
        (
            ["explain", "none.jpg", "--unit", "blocks.10"],
            "--unit blocks.10: which channel of it? give blocks.10=CHANNEL",
        ),
        (["explain", "none.jpg", "--target", "tabby"], "--target 'tabby' is not KIND:VALUE with a KIND of class, "),
        (["explain", "none.jpg", "--target", "class:"], "--target 'class:' is not KIND:VALUE"),
        (["explain", "none.jpg", "--target", "unit:a=1", "--unit", "a=2"], "--unit and --target: give one of them"),
        (["explain", "none.jpg", "--target", "class:a", "--class", "b"], "and a class besides: give one of them"),
        (["explain", "none.jpg", "--unit", "a=1", "--class", "b"], "--unit a=1 and a class besides: give one of them"),
        (["impress", "b", "--target", "unit:a=1"], "--target unit:a=1 and a class besides: give one of them"),
        (["explain", "none.jpg", "--target", "unit:blocks.10"], "--target unit:blocks.10: which channel of it? give"),
        (["explain", "none.jpg", "--target", "unit:a=b"], "--target unit:a=b: is not LAYER=CHANNEL"),
        (["explain", "none.jpg", "--target", "region:dog@1"], "--target region:dog@1: write CLASS@ and"),
        (["explain", "none.jpg", "--region", "dog@5,5,2,9"], "--region dog@5,5,2,9: box (5"),
        (
            ["evaluate", "concepts", "--images", "a", "--class", "zebra", "--concept", "empty", "--random", "none/"],
            "empty: holds no picture file",
        ),
        (["report", "empty"], "empty: is no run folder"),
        (["impress", "tench", "--recipe", "fuse"], "fuse is no recipe of impress; it is one of phosphene fuse"),
        (["batch", "predict", "none/", "--out", "b", "--report", "single"], "is no one file; say --report pages"),
        (["explain", "none.jpg", "--out", ""], "--out is empty, as a shell variable that is not set; name a folder"),
        (["batch", "predict", "empty", "--out", ""], "--out is empty, as a shell variable that is not set"),
        (["impress", "tench", "--threads", "9999"], "--threads 9999: this machine has"),
    ],
)
def test_wrong_input(tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    outcome = phosphene(*arguments)
    assert outcome.code == 2, outcome.err
    assert message in outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--resume"]])
@pytest.mark.parametrize(("out", "message"), [("pictures", "no phosphene run; choose"), ("cat.png", "is a file")])
def test_a_folder_of_something_else_is_never_offered_to_be_overwritten(tmp_path, out, message, more):
    (tmp_path / "pictures").mkdir()
    for place in ("cat.png", "pictures/notes.txt"):
        Image.fromarray(chelsea()[:96, :96]).save(tmp_path / place, format="PNG")
    outcome = phosphene("predict", "cat.png", "--out", out, *more)
    assert outcome.code == 2, outcome.err
    assert message in outcome.err or "lies in --out" in outcome.err
    assert "--overwrite or" not in outcome.err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cat.png", "notes.txt", "pictures"]


def test_near_names_stand_without_all_the_others(tmp_path):
    """Nor does what a file of one's own is called inside of this program."""
    (tmp_path / "net.py").write_text("def make(): ...")
    for arguments, message in (
        (["--method", "gradcam"], "no attribution method 'gradcam'; did you mean 'grad_cam' or "),
        (["--method", "saliency,grad_cam"], "'saliency,grad_cam'; name each by itself: --method A --method B"),
        (["--method", "saliency:crops=10,cam"], "holds another method, cam; name each by itself"),
        (["--model", "embeded"], "no model 'embeded'; did you mean 'embedded'?"),
        (["--model", "net.py:mak"], "phosphene: net.py has no 'mak'; did you mean 'make'?"),
    ):
        outcome = phosphene("explain", "none.jpg", *arguments)
        assert outcome.code == 2
        assert message in outcome.err
        assert len(outcome.err) < 130, outcome.err


def test_what_a_phone_saves_is_refused_by_name_and_once(tmp_path):
    (tmp_path / "phone").mkdir()
    Image.fromarray(chelsea()[:96, :96]).save(tmp_path / "phone" / "cat.png")
    (tmp_path / "phone" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    outcome = phosphene("predict", "phone")
    assert outcome.code == 1
    why = "not an image that can be read (it is HEIC, as phones save it); save it as JPEG or PNG"
    assert f"IMG_1.HEIC: failed: {why}\n" in outcome.err
    assert f"phone/IMG_1.HEIC\n  failed: {why}\n" in outcome.out
    (report,) = tmp_path.glob("phosphene-runs/*/report.html")
    assert "2 pictures, 1 of them with an error" in report.read_text()
    assert f">{why}</span>" in report.read_text()


# What is wrong about options or with the network is known once a method was tried on the first picture.
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "--method", "grad_cam:layer=nope"], "no layer 'nope'"),
        (["explain", "--method", "cam", "--method", "integrated_gradients:steps=0"], "gradients:steps=0: steps=0 must"),
        (["explain", "--method", "occlusion:window=999"], "a window of 999 x 999 does not fit"),
        (["explain", "--method", "cam", "--score", "probability"], "cam takes the logit apart"),
        (
            ["explain", "--method", "saliency", "--method", "grad_cam", "--unit", "blocks.3=9999"],
            "no unit blocks.3=9999",
        ),
        (["explain", "--unit", "nope=3"], "no layer 'nope'"),
        (["explain", "--class", "tabbi"], "did you mean"),
        (["explain", "--method", "attention_rollout"], "no layers of self-attention"),
        (["locate", "--method", "grad_cam:layer=nope"], "no layer 'nope'"),
        (["locate", "--method", "cam", "--method", "rise:masks=0"], "masks=0"),
        (["locate", "--method", "attention_rollout"], "no layers of self-attention"),
        (["features", "--recipe", "minds_eye:steps=-1", "--facets", "1"], "steps=-1"),
        (["evaluate", "faithfulness", "--method", "grad_cam:layer=nope", "--images"], "no layer 'nope'"),
        (["evaluate", "sanity", "--method", "attention_rollout", "--images"], "no layers of self-attention"),
        (["batch", "explain", "--method", "integrated_gradients:steps=0", "--workers", "0"], "steps=0 must be"),
        (["batch", "explain", "--method", "attention_rollout", "--workers", "0"], "no layers of self-attention"),
        (["batch", "locate", "--method", "grad_cam:layer=nope", "--workers", "0"], "no layer 'nope'"),
        (["atlas", "--classes", "0", "--method", "grad_cam:layer=nope", "--images"], "no layer 'nope'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options(tmp_path, arguments, message):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a-broken.png").write_text("no picture")
    Image.fromarray(chelsea()[:96, :96]).save(tmp_path / "pictures" / "cat.png")
    outcome = phosphene(*arguments, "pictures", "--out", "run")
    assert outcome.code == 2, outcome.err
    assert message in outcome.err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.parametrize(
    "arguments", [["ladybug", "--recipe", "sci:steps=-1"], ["--unit", "blocks.3=9999", "--steps", "2"]]
)
def test_wrong_options_of_drawings(tmp_path, arguments):
    outcome = phosphene("impress", *arguments, "--out", "run")
    assert outcome.code == 2, outcome.err
    assert list(tmp_path.iterdir()) == []


def test_what_the_network_does_not_allow_is_a_row_beside_what_it_does(tmp_path):
    Image.fromarray(chelsea()[:96, :96]).save(tmp_path / "cat.png")
    outcome = phosphene("explain", "cat.png", "--method", "attention_rollout", "--method", "cam", "--json")
    assert outcome.code == 1
    assert [shown["status"] for shown in outcome.json["images"][0]["maps"]] == ["error", "ok"]


def test_a_picture_of_its_own_fault_is_a_row(tmp_path):
    """A window larger than one picture, which a network of any size sees as it is, when others were done before."""
    for name, side in (("a.png", 96), ("b.png", 24), ("c.png", 96)):
        Image.fromarray(chelsea()[:side, :side]).save(tmp_path / name)
    (tmp_path / "net.py").write_text(
        "import torch\nfrom phosphene import Classifier, Preprocess\n"
        "def make():\n"
        "    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]\n"
        "    return Classifier(torch.nn.Sequential(*layers), Preprocess(None))\n"
    )
    outcome = phosphene(
        "explain", "*.png", "--model", "net.py:make", "--method", "occlusion:window=32,stride=32", "--json"
    )
    assert outcome.code == 1
    maps = [row["maps"][0] for row in outcome.json["images"]]
    assert [shown["status"] for shown in maps] == ["ok", "error", "ok"]
    assert "does not fit an image of 24 x 24" in maps[1]["error"]


def test_what_is_there_beside_what_is_missing_is_done(tmp_path):
    Image.fromarray(chelsea()[:96, :96]).save(tmp_path / "cat.png")
    outcome = phosphene("predict", "cat.png", "none.jpg", "--json")
    assert outcome.code == 1
    assert [row["status"] for row in outcome.json["images"]] == ["ok", "error"]


def test_own_output_is_no_input(tmp_path):
    Image.fromarray(chelsea()[:96, :96]).save(tmp_path / "cat.png")
    first = phosphene("predict", ".", "--json")
    assert [row["path"] for row in first.json["images"]] == ["cat.png"]
    explained = phosphene("explain", ".", "--method", "saliency", "--json")
    assert len(explained.json["images"]) == 1
    again = phosphene("predict", ".", "--json")
    assert [row["path"] for row in again.json["images"]] == ["cat.png"]
    for pattern in ("**/*.png", "**/*.jpg"):
        found = phosphene("predict", pattern, "--json")
        assert found.code == (0 if pattern == "**/*.png" else 2), pattern
        assert [row["path"] for row in found.json.get("images", [])] in (["cat.png"], [])
    (tmp_path / "small.py").write_text(
        "from tests.networks import classifier_of, pooled\n\ndef make():\n    return classifier_of(pooled())\n"
    )
    small = ("--model", "small.py:make", "--method", "saliency")
    measured = phosphene("evaluate", "faithfulness", "--images", ".", *small, "--json")
    assert measured.json["images"] == 1


def test_a_package_that_is_missing_is_told_with_the_command_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.data", None)
    outcome = phosphene("explain", "none.jpg", "--model", "timm:resnet18")
    assert outcome.code == 2
    assert "-m pip install 'timm>=1.0'" in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [["--class", "tabby", "--class", "281,lynx"], ["--class", "tabby, lynx"]])
def test_several_classes_are_all_explained(tmp_path, how):
    Image.fromarray(chelsea()[:96, :96]).save(tmp_path / "cat.png")
    outcome = phosphene("explain", "cat.png", *how, "--method", "cam", "--report", "none", "--json")
    assert outcome.code == 0
    assert [shown["target"]["label"] for shown in outcome.json["images"][0]["maps"]] == ["tabby", "lynx"]
    refused = phosphene("explain", "cat.png", "--class", "tabby", "--class", "top2")
    assert refused.code == 2
    assert "--class top2 is the best classes of each picture; give it alone" in refused.err


def test_an_evaluation_that_is_stopped_leaves_no_empty_run(tmp_path, monkeypatch):
    from phosphene.runs import faithfulness

    def stopped(*_arguments, **_options):
        raise KeyboardInterrupt

    Image.fromarray(chelsea()[:96, :96]).save(tmp_path / "cat.png")
    monkeypatch.setattr(faithfulness, "faithfulness", stopped)
    outcome = phosphene("evaluate", "faithfulness", "--images", "cat.png")
    assert outcome.code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["cat.png"]
