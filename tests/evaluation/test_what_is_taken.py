"""What the evaluations take in Python: the classifiers that all other functions take, one method or several, files."""

import numpy as np
import pytest
from PIL import Image

from phosphene import Classifier, Preprocess, prepare
from phosphene.errors import NotFoundError, OptionError
from phosphene.evaluation.concepts import tcav
from phosphene.evaluation.craft import craft
from phosphene.evaluation.faithfulness import faithfulness
from phosphene.evaluation.ground_truth import Truth
from phosphene.evaluation.impressions import measure_impressions
from phosphene.evaluation.localization import localization
from phosphene.evaluation.sanity import sanity
from phosphene.targets import Target
from phosphene.tasks.impressions import Job
from phosphene.tasks.objects import configured
from phosphene.types import Box
from tests.networks import pooled

WAYS = {
    "faithfulness": lambda network, files: faithfulness(network, files, "saliency"),
    "sanity": lambda network, files: sanity(network, files, "saliency", modes="cascading"),
    "craft": lambda network, files: craft(network, files, target=1, concepts=2, crops=4, designs=4),
    "tcav": lambda network, files: tcav(
        network, files, [files[0].parent], [files[0].parent], target=1, layers=["2"], sets=3
    ),
    "localization": lambda network, files: localization(
        network, [Truth(path, 1, (Box(0, 0, 8, 8),)) for path in files[:2]], [configured("best", "cam", "threshold")]
    ),
    "impressions": lambda network, files: measure_impressions(network, [Job(Target.of(1))], "class_model:steps=2"),
}


@pytest.fixture
def files(tmp_path):
    generator = np.random.default_rng(0)
    for index in range(40):
        Image.fromarray(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize("way", WAYS)
def test_a_classifier_as_it_was_made_and_a_prepared_one_are_the_same(files, way):
    classifier = Classifier(pooled(), Preprocess((16, 16)))
    assert str(WAYS[way](classifier, files)) == str(WAYS[way](prepare(classifier), files))
    with pytest.raises(NotFoundError, match="no model 'embeded'; did you mean 'embedded'"):
        WAYS[way]("embeded", files)


@pytest.mark.parametrize("measure", [faithfulness, sanity])
def test_a_path_alone_is_not_taken_for_a_list_of_letters(files, measure):
    with pytest.raises(OptionError, match=r"0\.png: is one path; give a list of picture files"):
        measure(Classifier(pooled()), str(files[0]), ["saliency"])


@pytest.mark.parametrize(("measure", "known"), [(faithfulness, "coarse or rise"), (sanity, "blocks or mprt")])
def test_a_protocol_that_there_is_not_is_refused(files, measure, known):
    with pytest.raises(OptionError, match=f"protocol 'rice' is unknown; choose {known}"):
        measure(Classifier(pooled()), files[:1], "saliency", protocol="rice")


def test_a_concept_alone_is_not_taken_for_a_list_of_letters(files):
    with pytest.raises(OptionError, match="striped: is one path; give a list of folders"):
        tcav(Classifier(pooled()), files, "striped", ["random"], target=1)
