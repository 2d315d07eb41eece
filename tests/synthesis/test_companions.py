"""Companions: drawn once, kept, found again, and joined by each picture by itself."""

from __future__ import annotations

import warnings
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import nn

from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import InputError, OptionError, PhospheneWarning
from phosphene.images import to_pil
from phosphene.runtime import precision, prepare
from phosphene.synthesis import companions as module
from phosphene.synthesis import staged
from phosphene.synthesis.companions import Companions, companions
from phosphene.synthesis.norms import distance, memories
from phosphene.synthesis.objectives import Objective, StepOutputs
from phosphene.synthesis.photographs import Photographs
from phosphene.synthesis.recipes.class_impression import ClassImpressionOptions, class_impression
from phosphene.synthesis.recipes.sci import SciOptions, sci
from phosphene.synthesis.streams import Streams
from phosphene.targets import Target, Unit
from phosphene.zoo import load_classifier


def normed() -> Classifier:
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    with torch.no_grad():
        net[1].running_mean.fill_(0.1)  # (norms as they were made remember nothing)
    return Classifier(net.eval(), Preprocess((16, 16), mean=(0.5,) * 3, std=(0.25,) * 3))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PHOSPHENE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(staged, "_COMPANION_STEPS", 25)
    monkeypatch.setattr(module, "_DRAWN", {})


def drawn(classifier: Classifier, classes: list[int], **options: object) -> torch.Tensor:
    given = ClassImpressionOptions.of("best", steps=8, **options)
    steps = list(class_impression(classifier, Target.of(classes), Streams.of(0, classes), given))
    return steps[-1].images


class Votes(nn.Sequential):
    """Adds its scores up in pairs, by a step that takes values of one type alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = super().forward(x) @ torch.eye(4)
        return torch.zeros(len(x), 4).scatter_add(1, torch.tensor([[0, 0, 1, 1]]).expand(len(x), -1), found)


def test_they_are_drawn_of_a_network_that_knows_no_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_processor_has_bfloat16", lambda: True)
    classifier = Classifier(Votes(*normed().module).eval(), normed().preprocess)  # type: ignore[misc]
    with pytest.warns(PhospheneWarning, match="16 companion pictures are drawn once"):
        assert drawn(classifier, [1]).isfinite().all()


def test_they_are_drawn_once_and_kept_by_the_weights() -> None:
    classifier = normed()
    with pytest.warns(PhospheneWarning, match="16 companion pictures are drawn once"):
        first = drawn(classifier, [1])
    assert len(list(module.cache_folder().iterdir())) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(drawn(normed(), [1]), first)
    with torch.no_grad():
        classifier.module[0].weight.mul_(2)  # type: ignore[index, operator]
    with pytest.warns(PhospheneWarning):
        drawn(classifier, [1])
    assert len(list(module.cache_folder().iterdir())) == 2


def test_they_are_of_the_classes_that_are_read() -> None:
    """The same weights read in another way are drawn into another company, whoever came first."""
    with pytest.warns(PhospheneWarning, match="16 companion pictures are drawn once"):
        drawn(normed(), [1])
    other = normed()
    other.head = "sigmoid"
    with pytest.warns(PhospheneWarning, match="16 companion pictures are drawn once"):
        drawn(other, [1])
    assert len(list(module.cache_folder().iterdir())) == 2


def test_without_statistics_or_norms_none_are_drawn() -> None:
    drawn(normed(), [1], statistics=0.0)
    plain = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), normed().preprocess)
    drawn(plain, [1])
    assert not module.cache_folder().exists()


@pytest.mark.filterwarnings("ignore::phosphene.errors.PhospheneWarning")
def test_an_object_without_statistics_is_satisfied_later() -> None:
    def of(**options: object) -> torch.Tensor:
        given = SciOptions.of("best", steps=8, **options)
        return list(sci(normed(), Target.of([1]), Streams.of(0, [1]), given))[-1].images

    for weight, own, other in ((staged.STATISTICS, 1.6, 2.5), (0.0, 2.5, 1.6)):
        found = of(statistics=weight)
        assert torch.equal(found, of(statistics=weight, temperature=own))
        assert not torch.equal(found, of(statistics=weight, temperature=other))


def folder_of(tmp_path: Path, count: int = 12, shade: float = 1.0) -> str:
    folder = tmp_path / "photographs"
    folder.mkdir(exist_ok=True)
    for number in range(count):
        noise = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(number))
        to_pil(shade * noise).save(folder / f"{number}.png")
    return str(folder)


def test_the_statistics_of_a_folder_stand_in_for_norms(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    for classifier in (Classifier(plain.eval(), normed().preprocess), normed()):
        bare = drawn(classifier, [1], statistics=0.0)
        with pytest.warns(PhospheneWarning, match=r"this network and the statistics of .*photographs"):
            dark = drawn(classifier, [1], statistics_of=folder_of(tmp_path, shade=0.3))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(drawn(classifier, [1], statistics_of=str(tmp_path / "photographs")), dark)
        with pytest.warns(PhospheneWarning):  # (other pictures, other companions)
            bright = drawn(classifier, [1], statistics_of=folder_of(tmp_path, 13))
        assert not torch.equal(dark, bare)
        assert not torch.equal(dark, bright)


def test_a_folder_that_counts_for_nothing_or_holds_too_little_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds 3 pictures; statistics need at least 10"):
        drawn(normed(), [1], statistics_of=folder_of(tmp_path, 3))
    folder = folder_of(tmp_path)
    with pytest.raises(OptionError, match="count for nothing"):
        drawn(normed(), [1], statistics_of=folder, statistics=0.0)
    unit, options = Target(unit=Unit("0", 3)), ClassImpressionOptions.of("best", steps=8, statistics_of=folder)
    with pytest.raises(OptionError, match="for classes only"):
        list(class_impression(normed(), unit, Streams.of(0, ["0=3"]), options))


def test_pictures_of_a_folder_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (Path(folder) / "3.png").write_bytes(b"no picture")
    with pytest.warns(PhospheneWarning, match=r"1 of 12 pictures are left out .*3\.png"):
        Photographs.of(folder).memories(normed())
    for number in (4, 5):
        (Path(folder) / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"5\.png"):
        Photographs.of(folder).memories(normed())


def test_a_picture_joins_them_by_itself() -> None:
    with pytest.warns(PhospheneWarning):
        together = drawn(normed(), [0, 3])
    torch.testing.assert_close(together[1:], drawn(normed(), [3]), rtol=0, atol=1e-4)


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("PHOSPHENE_CACHE", str(tmp_path / "file"))
    with pytest.warns(PhospheneWarning):
        assert bool(torch.isfinite(drawn(normed(), [1])).all())


def test_a_damaged_file_is_drawn_anew_and_precision_makes_no_difference() -> None:
    with pytest.warns(PhospheneWarning):
        drawn(prepare(normed(), precision="fast"), [1])
    (kept,) = module.cache_folder().iterdir()
    whole = kept.read_bytes()
    for damaged in (whole[:200], b"nothing"):
        kept.write_bytes(damaged)
        with pytest.warns(PhospheneWarning):
            drawn(prepare(normed(), precision="exact"), [1])
        assert kept.read_bytes() == whole


def test_the_company_is_drawn_towards_what_the_norms_remember() -> None:
    classifier = normed()
    seen: list[float] = []

    def draw(classes: list[int], penalty: Objective) -> object:
        assert (len(classes), set(classes)) == (16, {0, 1, 2, 3})
        watched = Objective(lambda reading: _noted(penalty(reading), seen), penalty.layers)
        streams = Streams.of(0, classes)
        start = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        return staged.draw(classifier, -watched, start, streams, 25, staged.Prior.none(rate=0.05), batch_size=16)

    with pytest.warns(PhospheneWarning):
        found = companions(classifier, draw)  # type: ignore[arg-type]
    assert found is not None
    assert found.sums["1"].shape == (20, 2, 8)
    assert seen[-1] < 0.85 * seen[0]


def _noted(values: torch.Tensor, seen: list[float]) -> torch.Tensor:
    seen.append(float(values[0].detach()))
    return values


def test_the_joined_distance_is_that_of_the_whole_company() -> None:
    memory = memories(normed())
    own = torch.rand(2, 8, 5, 5)
    others = torch.rand(16, 8, 5, 5)
    sums = memory["1"].moments(others).sum(dim=0).expand(20, -1, -1)
    reading = StepOutputs(torch.zeros(2, 4), {"1": own}, torch.zeros(2, 3, 5, 5), step=3, steps=7)
    got = Companions(16, memory, {"1": sums}).joined()(reading)
    for row in range(2):
        whole = memory["1"].moments(torch.cat([others, own[row : row + 1]])).mean(dim=0, keepdim=True)
        torch.testing.assert_close(got[row], 17 * distance(whole)[0])


def test_the_embedded_networks_companions_come_with_phosphene():
    name = f"companions-{module._key(load_classifier('embedded'))}.npz"
    assert files("phosphene").joinpath(f"data/{name}").is_file()
