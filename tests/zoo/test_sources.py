"""load_classifier on what a user has: own code, a weights file, a saved network, a missing extra."""

from __future__ import annotations

import json
import sys
import zipfile
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from phosphene.attribution.grad_cam import grad_cam
from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import InputError, MissingExtraError, ModelError, NotFoundError, OptionError
from phosphene.runtime import activations, forward, input_gradient
from phosphene.targets import Target
from phosphene.tasks.attributions import attribute
from phosphene.zoo import load_classifier
from phosphene.zoo.weights import fit_names, read_state_dict
from tests.networks import pooled
from tests.zoo import models

FED = Preprocess((16, 16), None, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


class Payload:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("the file ran code",))


def shifted(module: nn.Module) -> nn.Module:
    """The module with other weights, so that loading them shows."""
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.add_(1)
    return module


def test_a_card_that_lacks_the_preprocessing_is_told_what_it_lacks(tmp_path):
    (tmp_path / "net.py").write_text("from tests.zoo.models import network\n")
    (tmp_path / "net.json").write_text('{"labels": ["a", "b", "c", "d", "e"]}')
    with pytest.warns(UserWarning, match=r"without normalization; add it to its JSON card, such as \"size\""):
        assert load_classifier(f"{tmp_path / 'net.py'}:network").labels.names == tuple("abcde")


def test_a_factory_makes_a_classifier_or_a_module():
    images = torch.rand(2, 3, 16, 16)
    made = load_classifier("tests.zoo.models:classifier")
    assert made.labels.names == tuple("abcde")
    assert made.preprocess.short_side == 18
    with pytest.warns(UserWarning, match=r"tests.zoo.models:network does not say how pictures are prepared"):
        as_it_is = load_classifier("tests.zoo.models:network")
    assert torch.equal(as_it_is.logits(images), pooled()(images))
    told = load_classifier("tests.zoo.models:network", preprocess=FED, labels=list("abcde"), head="sigmoid")
    assert (told.preprocess, told.head, told.name) == (FED, "sigmoid", "tests.zoo.models:network")
    models.a_module.train()
    assert load_classifier("tests.zoo.models:a_module", preprocess=FED).module is models.a_module
    assert models.a_module.training  # (what is explained is a copy in eval mode)
    exported = load_classifier("tests.zoo.models:exported", preprocess=FED)
    assert torch.allclose(forward(exported, images[:1]), exported.module(FED.normalize(images[:1])), atol=1e-4)
    with pytest.warns(UserWarning, match="at their own size"):
        assert load_classifier("tests.zoo.models:four_channels").preprocess.channels == 4


def test_a_factory_in_a_file_and_in_the_current_folder(tmp_path, monkeypatch):
    code = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))\n"
    (tmp_path / "own_models_7.py").write_text(code)
    made = load_classifier(f"{tmp_path}/own_models_7.py:make", preprocess=Preprocess((2, 2)))
    assert made.logits(torch.rand(1, 3, 2, 2)).shape == (1, 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert load_classifier("own_models_7:make", preprocess=Preprocess((2, 2))).device.type == "cpu"
    sys.modules.pop("own_models_7")


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("tests.zoo.models:netwrok", NotFoundError, "has no 'netwrok'; did you mean 'network'"),
        ("tests.zoo.modles:network", ModelError, "cannot be imported"),
        ("no_such_package_5:network", NotFoundError, "no module 'no_such_package_5'"),
        ("tests.zoo.models:broken", ModelError, "FileNotFoundError: no such table: weights.db"),
        ("tests.zoo.models:a_string", ModelError, "returned a str"),
        ("tests.zoo.models:a_number", ModelError, "is a int, neither a factory nor a classifier"),
        ("nowhere.py:make", NotFoundError, r"nowhere\.py: no such file"),
        ("embeded", NotFoundError, "did you mean 'embedded'"),
        ("timn:resnet-50", NotFoundError, "did you mean 'timm'"),
        ("heads", NotFoundError, r"no model 'heads' \(there are: .* a folder of phosphene head\)"),
        ("photo.jpg", NotFoundError, "'photo.jpg', which is named like a picture; the classifier comes first"),
        ("embedded:lite7", NotFoundError, "no embedded classifier 'lite7'"),
        ("nowhere.pt2", ModelError, "no such file"),
    ],
)
def test_what_cannot_be_found_is_named(spec, kind, message):
    with pytest.raises(kind, match=message) as caught:
        load_classifier(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["safetensors", "pt", "checkpoint", "wrapped", "lightning"])
def test_a_weights_file_is_loaded_into_the_network(tmp_path, kind):
    state = shifted(pooled()).state_dict()
    path = tmp_path / ("net.safetensors" if kind == "safetensors" else "net.pt")
    saved = {
        "pt": state,
        "checkpoint": {"epoch": 3, "optimizer": {"lr": 0.1}, "model_state_dict": state},
        "wrapped": {f"module.{key}": value for key, value in state.items()},
        "lightning": {"state_dict": {**{f"model.{k}": v for k, v in state.items()}, "loss.weight": torch.ones(3)}},
    }
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(saved[kind], path)
    classifier = load_classifier("tests.zoo.models:network", weights=path, preprocess=FED)
    images = torch.rand(2, 3, 16, 16)
    expected = Classifier(shifted(pooled()), FED).logits(images)
    assert torch.equal(classifier.logits(images), expected)
    assert not torch.equal(expected, Classifier(pooled(), FED).logits(images))


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Linear(2, 2)).state_dict(), path)
    with pytest.raises(ModelError, match=r"not for this Sequential: of its 11 tensors 6 missing .*2 of another shape"):
        load_classifier("tests.zoo.models:network", weights=path)
    torch.save(pooled(classes=7).state_dict(), path)
    with pytest.raises(ModelError, match=r"of another shape \(9\.weight: \(7, 8\), not \(5, 8\)\)"):
        load_classifier("tests.zoo.models:network", weights=path)
    torch.save({"epoch": 1, "notes": "none"}, path)
    with pytest.raises(ModelError, match=r"no state dict among its entries \(epoch, notes\)"):
        load_classifier("tests.zoo.models:network", weights=path)
    torch.save([1, 2], path)
    with pytest.raises(ModelError, match="holds a list, not a state dict"):
        load_classifier("tests.zoo.models:network", weights=path)


def test_a_longer_network_of_the_same_names_is_refused(tmp_path):
    """The first layers of a deeper network have the names and shapes of a shallower one."""
    path = tmp_path / "deep.pt"
    torch.save({**pooled().state_dict(), "10.weight": torch.ones(5, 5)}, path)
    with pytest.raises(ModelError, match=r"1 that the network does not have \(10\.weight\)"):
        load_classifier("tests.zoo.models:network", weights=path)


@pytest.mark.parametrize("saved", ["a whole network", "a payload"])
@pytest.mark.parametrize("how", ["weights", "spec"])
def test_a_pickle_that_needs_code_is_refused_aloud(tmp_path, capsys, saved, how):
    path = tmp_path / "net.pt"
    torch.save(models.network() if saved == "a whole network" else {"weight": Payload()}, path)
    spec, weights = ("tests.zoo.models:network", path) if how == "weights" else (str(path), None)
    with pytest.raises(ModelError, match="refused, since reading it would run code") as caught:
        load_classifier(spec, weights=weights)
    assert "\n" not in str(caught.value)
    assert "ran code" not in capsys.readouterr().out


def test_damaged_and_empty_files(tmp_path):
    for name, content in (("a.pt", b"junk"), ("b.safetensors", b"junkjunkjunk"), ("c.pt2", b"PK junk")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=name):
            read_state_dict(tmp_path / name)
    (tmp_path / "d.pt").touch()
    with pytest.raises(ModelError, match="is empty"):
        read_state_dict(tmp_path / "d.pt")
    with pytest.raises(ModelError, match="is a directory"):
        read_state_dict(tmp_path)
    cut = tmp_path / "cut.pt"
    torch.save(pooled().state_dict(), cut)
    cut.write_bytes(cut.read_bytes()[:-200])
    with pytest.raises(ModelError, match=r"cut\.pt"):
        read_state_dict(cut)


def test_weights_alone_are_no_classifier(tmp_path):
    weights = pooled().state_dict()
    save_file(weights, tmp_path / "net.safetensors")
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "net.ckpt")
    for path in (tmp_path / "net.safetensors", tmp_path / "net.ckpt"):
        with pytest.raises(
            ModelError,
            match=r"holds weights alone; give it as the weights of its network: --model net\.py:factory",
        ):
            load_classifier(str(path))


def test_fine_tuned_embedded_weights_bring_their_number_of_classes(tmp_path):
    from phosphene.zoo.efficientnet_lite import VARIANTS, EfficientNetLite

    network = EfficientNetLite(VARIANTS["lite0"], classes=4).eval()
    torch.save(network.state_dict(), tmp_path / "own.pt")
    classifier = load_classifier("embedded", weights=tmp_path / "own.pt", labels=["a", "b", "c", "d"])
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(classifier.logits(images), network(classifier.preprocess.normalize(images)))
    assert classifier.labels.find("c") == 2
    untrained = load_classifier("embedded", weights="random")
    assert not torch.equal(untrained.module.classifier.weight, load_classifier("embedded").module.classifier.weight)


def test_the_card_says_what_the_file_does_not(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(pooled().state_dict(), path)
    card = {"size": [16, 20], "short_side": 24, "mean": [0.1, 0.2, 0.3], "std": [0.1, 0.2, 0.3], "labels": "names.txt"}
    (tmp_path / "net.json").write_text(json.dumps(card | {"head": "sigmoid"}))
    (tmp_path / "names.txt").write_text("one\ntwo\n\nthree\nfour\nfive\n")
    classifier = load_classifier("tests.zoo.models:network", weights=path)
    assert classifier.preprocess == Preprocess((16, 20), 24, (0.1, 0.2, 0.3), (0.1, 0.2, 0.3))
    assert classifier.labels.find("three") == 2
    assert classifier.head == "sigmoid"
    assert load_classifier("tests.zoo.models:network", weights=path, head="score").head == "score"
    (tmp_path / "net.json").write_text('{"meen": [0, 0, 0]}')
    with pytest.raises(OptionError, match="unknown key 'meen'; did you mean 'mean'"):
        load_classifier("tests.zoo.models:network", weights=path)
    (tmp_path / "net.json").write_text("[]")
    with pytest.raises(InputError, match="holds no JSON object"):
        load_classifier("tests.zoo.models:network", weights=path)


def test_a_card_without_a_size_leaves_the_one_that_the_source_states(tmp_path):
    (tmp_path / "net.py").write_text(
        "from phosphene.classifier import Classifier, Preprocess\n"
        "from tests.networks import pooled\n"
        "def network(): return Classifier(pooled(), Preprocess((16, 20)))\n"
    )
    weights = tmp_path / "net.pt"
    torch.save(pooled().state_dict(), weights)
    (tmp_path / "net.json").write_text('{"mean": [0.5, 0.5, 0.5]}')
    found = load_classifier(f"{tmp_path / 'net.py'}:network", weights=weights).preprocess
    assert found == Preprocess((16, 20), mean=(0.5, 0.5, 0.5))


def test_the_card_that_is_proposed_has_a_mean_for_each_channel_of_the_network(tmp_path):
    (tmp_path / "gray.py").write_text("from torch import nn\ndef network():\n    return nn.Conv2d(1, 2, 3)\n")
    with pytest.warns(UserWarning, match=r'"mean": \[0.5\], "std": \[0.5\]'):
        load_classifier(f"{tmp_path / 'gray.py'}:network")


def test_labels_from_a_file(tmp_path):
    (tmp_path / "list.json").write_text('["ant", "bee"]')
    (tmp_path / "dict.json").write_text('{"1": "bee", "0": "ant"}')
    (tmp_path / "names.json").write_text('{"bee": 1, "ant": 0}')
    (tmp_path / "holes.json").write_text('{"10": "bee", "2": "ant"}')
    (tmp_path / "none.txt").touch()
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbfant\r\nbee\r\n")  # as editors on Windows write it
    (tmp_path / "column.csv").write_text("name\nant\nbee\n")
    (tmp_path / "bare.csv").write_text("ant\nbee\n")
    (tmp_path / "both.csv").write_text("index,name\n1,bee\n0,ant\n")
    (tmp_path / "bare.tsv").write_text("ant\t0\nbee\t1\n")
    (tmp_path / "excel.csv").write_bytes(b"\xef\xbb\xbfindex;name\r\n0;ant\r\n1;bee\r\n")
    (tmp_path / "wide.csv").write_text("0,ant,Formicidae\n1,bee,Apidae\n")
    (tmp_path / "twice.csv").write_text("0,ant\n0,bee\n")
    (tmp_path / "commas.csv").write_text("tench, Tinca tinca\nray, Rajiformes\n")
    (tmp_path / "quote.csv").write_text('ant\n"bee\nwasp\n')
    tables = ("column.csv", "bare.csv", "both.csv", "bare.tsv", "excel.csv")
    for name in ("list.json", "dict.json", "names.json", "marked.txt", *tables):
        labels = load_classifier("tests.zoo.models:network", preprocess=FED, labels=tmp_path / name).labels
        assert labels.names == ("ant", "bee")
    for name, message in (
        ("none.txt", "holds no class names"),
        ("nowhere.txt", "cannot be read"),
        ("holes.json", "class 0 has no name"),
        ("wide.csv", "no table of class names; give one a line, or two columns"),
        ("twice.csv", "no table of class names"),
        ("commas.csv", "names that hold ',' stand in quotes, or one a line in a file .txt"),
        ("quote.csv", "is no table .*write a quote that is in a name twice"),
    ):
        with pytest.raises(InputError, match=message):
            load_classifier("tests.zoo.models:network", preprocess=FED, labels=tmp_path / name)


@pytest.fixture
def scripted(tmp_path):
    path = tmp_path / "net.ts"
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(pooled()).save(str(path))
    return path


def test_torchscript_runs_as_one_piece(scripted):
    images = torch.rand(2, 3, 16, 16)
    classifier, own = load_classifier(str(scripted), preprocess=FED), Classifier(pooled(), FED)
    assert torch.allclose(forward(classifier, images), forward(own, images), atol=1e-5)
    got, expected = (input_gradient(each, images, Target.of(1))[1] for each in (classifier, own))
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert all(parameter.requires_grad for parameter in classifier.module.parameters())
    with pytest.raises(ModelError, match="TorchScript runs as one piece"):
        activations(classifier, images, ["5"])
    with pytest.raises(ModelError, match="is TorchScript, which runs as one piece"):
        grad_cam(classifier, images, Target.of(1))


def export(path, example, module=None, dynamic=True):
    shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    torch.export.save(torch.export.export(module or pooled(), (example,), dynamic_shapes=shapes), path)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_exported_network_keeps_its_layers(tmp_path):
    export(tmp_path / "net.pt2", torch.rand(2, 3, 16, 16))
    (tmp_path / "net.json").write_text(json.dumps({"size": [16, 16], "mean": FED.mean, "std": FED.std}))
    classifier, own = load_classifier(str(tmp_path / "net.pt2")), Classifier(pooled(), FED)
    images = torch.rand(5, 3, 16, 16)
    got, expected = (activations(each, images, ["5"]) for each in (classifier, own))
    assert torch.allclose(got[0], expected[0], atol=1e-5)
    assert torch.allclose(got[1]["5"], expected[1]["5"], rtol=1e-4, atol=1e-5)
    got, expected = (input_gradient(each, images, Target.of(1))[1] for each in (classifier, own))
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5)


class Rectified(nn.Module):
    """A ReLU as a module, as a function, in place, and a hardtanh."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(i, 6, 3, padding=1) for i in (3, 6, 6))
        self.relu, self.clip, self.fc = nn.ReLU(inplace=True), nn.Hardtanh(0.0, 6.0), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.one(x))
        x = nn.functional.relu(x + self.two(x))
        return self.fc(self.clip(self.three(x)).mean((2, 3)))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "spec", ["deconvnet", "guided_backprop", "guided_grad_cam:layer=three", "grad_cam:layer=clip", "cam"]
)
def test_rules_for_relus_and_class_activation_maps_of_an_exported_network(tmp_path, spec):
    network, images = Rectified(), torch.rand(2, 3, 16, 16)
    export(tmp_path / "net.pt2", images, network)
    (tmp_path / "net.json").write_text(json.dumps({"size": [16, 16], "mean": FED.mean, "std": FED.std}))
    exported, own = load_classifier(str(tmp_path / "net.pt2")), Classifier(network, FED)
    got, expected = (attribute(each, images, Target.of([1, 2]), spec).maps for each in (exported, own))
    assert float(expected.abs().max()) > 0
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*does not say how pictures are prepared")
def test_what_an_exported_network_cannot_do_is_said_in_one_line(tmp_path):
    export(tmp_path / "net.pt2", torch.rand(2, 3, 16, 16))
    export(tmp_path / "silu.pt2", torch.rand(2, 3, 16, 16), nn.Sequential(nn.Conv2d(3, 2, 16), nn.SiLU(), nn.Flatten()))
    images = torch.rand(1, 3, 16, 16)
    for name, spec, message in (
        ("silu.pt2", "cam", "no mean over all places of the picture gives the scores of silu.pt2 linearly"),
        ("silu.pt2", "guided_backprop", "no ReLU rule for the activation Silu"),
    ):
        with pytest.raises(ModelError, match=message) as refused:
            attribute(load_classifier(str(tmp_path / name)), images, Target.of(1), spec)
        assert "\n" not in str(refused.value)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_exports_that_would_be_silently_wrong_are_refused(tmp_path):
    path = tmp_path / "net.pt2"
    export(path, torch.rand(1, 3, 16, 16), dynamic=False)
    with pytest.raises(ModelError, match="exported for batches of exactly 1; export it again with a dynamic one"):
        load_classifier(str(path))
    export(path, torch.rand(2, 3, 16, 16), pooled().train())
    with pytest.raises(ModelError, match=r"exported in training mode .*model\.eval\(\)"):
        load_classifier(str(path))
    export(path, torch.rand(2, 12), nn.Linear(12, 2))
    with pytest.raises(ModelError, match="not one batch of images"):
        load_classifier(str(path))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_export_that_would_run_code_is_refused(tmp_path, capsys):
    path, evil = tmp_path / "net.pt2", tmp_path / "evil.pt2"
    export(path, torch.rand(2, 3, 16, 16))
    torch.save(Payload(), tmp_path / "payload")
    with zipfile.ZipFile(path) as good, zipfile.ZipFile(evil, "w", zipfile.ZIP_STORED) as bad:
        for name in good.namelist():
            sample = name.endswith("sample_inputs/model.pt")
            bad.writestr(name, (tmp_path / "payload").read_bytes() if sample else good.read(name))
    with pytest.raises(ModelError, match="refused, since reading it would run code"):
        load_classifier(str(evil))
    assert "ran code" not in capsys.readouterr().out


@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_a_missing_extra_gives_the_install_line(monkeypatch, source):
    for name in ("timm", "timm.data", "torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"-m pip install '{source}>="):
        load_classifier(f"{source}:resnet18")


def test_a_classifier_is_returned_as_it_is_and_never_moved():
    own = Classifier(pooled(), FED)
    assert load_classifier(own) is own
    assert load_classifier(own, device="cpu") is own
    elsewhere = load_classifier(own, device="meta")
    assert elsewhere.device.type == "meta"
    assert own.device.type == "cpu"
    with pytest.raises(ModelError, match="device 'warp' cannot be used"):
        load_classifier(own, device="warp")
    with pytest.raises(OptionError, match="weights= goes with the name of a network"):
        load_classifier(own, weights="net.pt")


def test_names_are_fitted_by_the_longest_match():
    network = pooled()
    state = {f"ema.model.{key}": value for key, value in network.state_dict().items()}
    assert fit_names(state, network).keys() == network.state_dict().keys()
    assert fit_names({"a": torch.ones(1)}, network).keys() == {"a"}


@pytest.mark.parametrize("aux", [True, False])
@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "resnet18"])
def test_local_weights_of_torchvisions_inceptions_are_fed_as_the_published_ones(tmp_path, monkeypatch, name, aux):
    """Torchvision itself is not needed: what it is asked for is what counts."""
    asked: list[dict[str, object]] = []

    def get_model(_name: str, **options: object) -> nn.Module:
        asked.append(options)
        own = nn.ModuleDict({"net": pooled()})
        if options.get("aux_logits", False):
            own["aux1"] = nn.Linear(2, 5)
        own.forward = own["net"].forward
        return own

    published = SimpleNamespace(
        transforms=lambda: SimpleNamespace(
            crop_size=[16],
            resize_size=[18],
            mean=[0.5] * 3,
            std=[0.2] * 3,
            interpolation=SimpleNamespace(value="bilinear"),
        ),
        meta={"categories": list("abcde")},
    )
    models_of_torchvision = SimpleNamespace(
        list_models=lambda module: [name],
        get_model=get_model,
        get_model_weights=lambda _: SimpleNamespace(__members__={"DEFAULT": published}),
    )
    monkeypatch.setattr("phosphene.zoo.torchvision._models", lambda: models_of_torchvision)
    state = get_model(name, aux_logits=aux).state_dict()
    asked.clear()
    save_file(state, tmp_path / "mine.safetensors")
    if name == "resnet18" and aux:
        with pytest.raises(ModelError, match="that the network does not have"):
            load_classifier(f"torchvision:{name}", weights=tmp_path / "mine.safetensors")
        return
    load_classifier(f"torchvision:{name}", weights=tmp_path / "mine.safetensors")
    wanted = {} if name == "resnet18" else {"transform_input": True, "aux_logits": aux, "init_weights": False}
    assert asked == [{"weights": None, **wanted}]


def test_a_spec_without_its_maker_or_source_proposes_what_was_meant(tmp_path):
    code = tmp_path / "net.py"
    code.write_text("raise SystemExit\ndef _own(): ...\ndef build(): ...\ndef scaled(width): ...\nclass Net: ...\n")
    with pytest.raises(NotFoundError, match=r"name what makes the network in it: \S*net\.py:build or \S*net\.py:Net$"):
        load_classifier(str(code))  # which reads the file and does not run it
    with pytest.raises(NotFoundError, match=r"nowhere\.py: no such file"):
        load_classifier("nowhere.py")
    with pytest.raises(NotFoundError, match="did you mean torchvision:resnet50 or timm:resnet50"):
        load_classifier("resnet50")
    save_file(pooled().state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(ModelError, match=r"--model \S*net\.py:build --weights \S*net\.safetensors"):
        load_classifier(str(tmp_path / "net.safetensors"))
