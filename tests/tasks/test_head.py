"""A head is fitted, saved, loaded and explained on a tiny network whose features are known."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from phosphene import Classifier, Preprocess, Target, load_classifier
from phosphene.cli import app
from phosphene.errors import InputError, ModelError, OptionError
from phosphene.runtime import forward
from phosphene.tasks.attributions import attribute
from phosphene.tasks.head import fit_head
from phosphene.zoo import head as head_file
from phosphene.zoo.embedded import imagenet_labels


def color_network():
    """Its pooled features are the means of red, green and blue: what separates classes of colored pictures."""
    conv = nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(3)[:, :, None, None])
    return Classifier(
        nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7)), Preprocess((8, 8))
    )


def paint(folder, colors, count=20, side=8):
    generator = np.random.default_rng(0)
    for name, color in colors.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            noise = generator.integers(0, 80, (side, side, 3))
            Image.fromarray((np.array(color) + noise).astype(np.uint8)).save(folder / name / f"{index:02d}.png")
    return folder


TWO = {"blue": (10, 10, 150), "red": (150, 10, 10)}
THREE = {**TWO, "green": (10, 150, 10)}


def test_two_colors_get_one_sigmoid_output(tmp_path):
    fit = fit_head(color_network(), paint(tmp_path / "p", TWO))
    assert fit.labels == ("blue", "red")
    assert fit.weight.shape == (1, 3)
    assert fit.classifier.head == "sigmoid"
    assert fit.accuracy == fit.fitted_accuracy == 1.0
    assert fit.confusion.tolist() == [[4, 0], [0, 4]]
    assert fit.weight[0, 0] > 0 > fit.weight[0, 2]
    red = torch.zeros(1, 3, 8, 8)
    red[:, 0] = 0.8
    logits = forward(fit.classifier, red)
    assert logits[0, 1] == -logits[0, 0]
    assert fit.classifier.predictions(logits)[0][0].label == "red"


def test_three_colors_get_a_softmax(tmp_path):
    fit = fit_head(color_network(), paint(tmp_path / "p", THREE), held_out=0.25)
    assert fit.classifier.head == "softmax"
    assert fit.weight.shape == (3, 3)
    assert fit.confusion.sum() == 15
    assert fit.accuracy == 1.0
    # Each class is spoken for by its own color: rows blue, green, red; columns red, green, blue.
    assert fit.weight.argmax(dim=1).tolist() == [2, 1, 0]


def test_the_folded_weights_are_the_logistic_regression_itself(tmp_path):
    from phosphene.tasks.head import _logistic, _scores

    features = np.random.default_rng(0).normal(3, [0.1, 5, 1], (60, 3))
    truth = (features[:, 0] > 3).astype(np.int64)
    weight, bias, strength = _logistic(features, truth, 0)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    slow = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000)).fit(features, truth)
    found = _scores(torch.from_numpy(features), weight, bias)[:, 1]
    assert found.tolist() == pytest.approx(slow.decision_function(features).tolist(), abs=1e-6)


def test_the_split_is_the_seeds_and_stratified(tmp_path):
    folder = paint(tmp_path / "p", TWO)
    names = [
        [record.path for record in fit_head(color_network(), folder, seed=seed).held_out] for seed in (2**62, 2**62, 1)
    ]
    assert names[0] == names[1] != names[2]
    assert sum("blue" in name for name in names[0]) == sum("red" in name for name in names[0]) == 4


def test_class_activation_maps_stay_exact_and_opposite(tmp_path):
    fit = fit_head(color_network(), paint(tmp_path / "p", TWO))
    images = torch.rand(2, 3, 8, 8)
    red, blue = (attribute(fit.classifier, images, Target.of(index), "cam") for index in (1, 0))
    assert torch.allclose(red.maps, -blue.maps, atol=1e-5)
    assert torch.allclose(red.maps.mean((1, 2)) + fit.bias.float(), red.score, atol=1e-4)


def test_the_network_it_was_fitted_on_is_as_it_was(tmp_path):
    base = color_network()
    before = {name: value.clone() for name, value in base.module.state_dict().items()}
    fit_head(base, paint(tmp_path / "p", TWO))
    assert all(torch.equal(before[name], value) for name, value in base.module.state_dict().items())


def test_a_broken_picture_is_a_row_and_the_rest_is_fitted(tmp_path):
    folder = paint(tmp_path / "p", TWO)
    (folder / "red" / "broken.png").write_bytes(b"no picture")
    fit = fit_head(color_network(), folder)
    assert [record.path for record in fit.broken] == [str(folder / "red" / "broken.png")]
    assert fit.counts == (20, 20)


@pytest.mark.parametrize(
    ("spoil", "options", "error", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "red"), {}, InputError, "holds 1 folders"),
        (lambda folder: shutil.rmtree(folder), {}, InputError, "no such folder"),
        (
            lambda folder: [p.unlink() for p in list((folder / "red").iterdir())[3:]],
            {},
            InputError,
            "too few pictures: class .red. has 3;",
        ),
        (
            lambda folder: [p.write_bytes(b"no picture") for p in list((folder / "red").iterdir())[3:]],
            {},
            InputError,
            "too few readable pictures: class .red. has 3",
        ),
        (lambda folder: None, {"held_out": 1.0}, OptionError, "held_out=1.0"),
    ],
)
def test_folders_that_do_not_do_are_named(tmp_path, spoil, options, error, message):
    folder = paint(tmp_path / "p", TWO)
    spoil(folder)
    with pytest.raises(error, match=message):
        fit_head(color_network(), folder, **options)


def test_all_classes_with_too_few_pictures_are_named_at_once(tmp_path):
    folder = paint(tmp_path / "p", THREE)
    for name in ("blue", "green"):
        for path in sorted((folder / name).iterdir())[3:]:
            path.unlink()
    with pytest.raises(InputError, match=r"too few pictures: class 'blue' has 3, 'green' has 3; at least 10 of each"):
        fit_head(color_network(), folder)


def test_the_same_files_in_several_places_are_told(tmp_path):
    folder = paint(tmp_path / "p", TWO)
    assert fit_head(color_network(), folder).notes == ()
    for path in sorted((folder / "red").iterdir()):
        shutil.copy(path, folder / "red" / f"copy-{path.name}")
    shutil.copy(folder / "red" / "03.png", folder / "blue" / "x.png")
    shutil.copy(folder / "red" / "03.png", folder / "stray.png")
    stray, mixed, leaked = fit_head(color_network(), folder).notes
    assert stray == f"of no class, and left out: 1 picture directly in {folder}"
    assert mixed.startswith("1 picture in several classes, byte for byte (")
    assert "x.png" in mixed
    assert "of 12 held-out pictures also among the fitted ones, byte for byte" in leaked


class OfData(nn.Module):
    """Code that no graph can be made of, as networks of transformers have."""

    def __init__(self):
        super().__init__()
        self.body, self.classifier = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Linear(4, 6)

    def forward(self, x):
        y = self.body(x)
        return self.classifier(y.mean((2, 3)) if bool(y.isfinite().all()) else y.amax((2, 3)))


def test_a_head_goes_on_a_network_whose_code_depends_on_data():
    torch.manual_seed(0)
    base, images, weight = Classifier(OfData()), torch.rand(3, 3, 12, 12), torch.randn(3, 4)
    found = head_file.with_head(base, weight, torch.zeros(3), ["a", "b", "c"], "mine")
    features = base.module.body(base.preprocess.normalize(images)).mean((2, 3))
    torch.testing.assert_close(found.logits(images), (features @ weight.T).detach(), rtol=1e-4, atol=1e-5)


def test_a_copy_of_the_last_layer_is_not_taken_for_it():
    """An averaged or auxiliary head, which is registered later and does not run."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))
    for base in (net, OfData()):
        last = base[3] if base is net else base.classifier
        last.aux = copy.deepcopy(last)
        base.aux = last.aux if base is not net else None
        assert head_file.last_linear(Classifier(base)) == ("3" if base is net else "classifier")


def test_a_head_goes_only_where_it_fits():
    with pytest.raises(ModelError, match="4 features does not fit"):
        head_file.with_head(color_network(), torch.ones(1, 4), torch.zeros(1), ["a", "b"], "x")
    with pytest.raises(OptionError, match="2 outputs for 3 labels"):
        head_file.with_head(color_network(), torch.ones(2, 3), torch.zeros(2), ["a", "b", "c"], "x")
    convolutional = Classifier(nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    with pytest.raises(ModelError, match="no linear layer"):
        head_file.with_head(convolutional, torch.ones(1, 4), torch.zeros(1), ["a", "b"], "x")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The command run once on the embedded network: (exit code, JSON, folder)."""
    place = tmp_path_factory.mktemp("head")
    folder, out = paint(place / "pictures", TWO, count=10, side=32), place / "colors"
    (folder / "red" / "broken.png").write_bytes(b"no picture")
    result = CliRunner().invoke(app, ["head", str(folder), "--out", str(out), "--json"])
    return result.exit_code, json.loads(result.stdout), out


def test_the_command_writes_a_head_and_says_how_good_it_is(saved):
    code, answer, out = saved
    assert code == 1  # one picture was broken
    assert answer["run"] == str(out)
    assert answer["labels"] == ["blue", "red"]
    assert answer["counts"] == [10, 10]
    assert sum(map(sum, answer["confusion"])) == answer["held_out"] == 4
    assert answer["accuracy"] == sum(answer["confusion"][i][i] for i in range(2)) / 4
    assert "broken.png" in answer["errors"][0]["error"]
    assert (out / "report.html").read_text().count("<table>") == 1


def test_the_folder_loads_as_a_classifier(saved):
    *_, out = saved
    loaded = load_classifier(str(out))
    assert (loaded.head, loaded.name, loaded.labels.names) == ("sigmoid", "colors", ("blue", "red"))
    red = torch.zeros(1, 3, 224, 224)
    red[:, 0] = 0.7
    assert loaded.predictions(forward(loaded, red))[0][0].label == "red"
    assert loaded.preprocess == load_classifier("embedded").preprocess
    assert len(imagenet_labels()) == 1000  # the embedded network's own labels are untouched


@pytest.mark.parametrize("name", [head_file.CARD, head_file.WEIGHTS])
def test_a_damaged_head_is_named(saved, tmp_path, name):
    *_, out = saved
    copy = shutil.copytree(out, tmp_path / "copy")
    (copy / name).write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"copy: holds no head that can be read"):
        load_classifier(str(copy))


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_a_head_has_the_type_of_the_network_and_draws_nothing(tmp_path, kind):
    classifier = color_network()
    classifier.module.to(kind)
    before = torch.random.get_rng_state()
    fit = fit_head(classifier, paint(tmp_path / "p", TWO))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert fit.classifier.module[-1].weight.dtype == kind
    assert forward(fit.classifier, torch.rand(2, 3, 8, 8)).shape == (2, 2)
