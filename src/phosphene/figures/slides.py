"""The slides about Deep Inside Convolutional Networks: what they add in words, shown."""

from __future__ import annotations

from itertools import pairwise

import torch

from phosphene.figures.figure import Drawn, figure
from phosphene.figures.material import Material
from phosphene.images import to_pil
from phosphene.render import contact_sheet
from phosphene.render.chart import line_chart
from phosphene.runtime import forward, input_gradient
from phosphene.targets import Target

_OPTIMIZERS = ("none", "SGD", "Adam", "RMSprop")
_STEPS = 120


@figure(
    "limousine",
    "The limousine by your favorite optimizer",
    claim="How do you solve it? Your favorite optimizer for a local optimum.",
    command="phosphene impress limousine --recipe class_model:optimizer=Adam --preset paper",
)
def optimizers(material: Material) -> Drawn:
    """The class model of a limousine by plain steps and by optimizers of torch.optim."""
    made = [
        material.impressions(["limousine"], f"class_model:optimizer={name}", _STEPS, preset="paper")[0]
        for name in _OPTIMIZERS
    ]
    classifier = material.classifier
    logits = forward(classifier, torch.stack([one.image for one in made]).to(classifier.device))
    index = made[0].target.classes[0]
    scores, shares = logits[:, index].tolist(), classifier.probabilities(logits)[:, index].tolist()
    texts = [
        f"{'plain steps' if name == 'none' else name}\nscore {score:.1f}, p {share:.2f}"
        for name, score, share in zip(_OPTIMIZERS, scores, shares, strict=True)
    ]
    return Drawn(
        contact_sheet([to_pil(one.image) for one in made], texts, columns=4, cell=224),
        {
            "each finds an image of a higher score": all(one.scores[-1] > one.scores[0] for one in made),
            "each image is read as a limousine": all(int(row.argmax()) == index for row in logits),
        },
        {"optimizers": list(_OPTIMIZERS), "scores": scores, "probabilities": shares},
    )


@figure(
    "posterior",
    "Why not the posterior: logit, probability and its logarithm",
    claim="The posterior can be raised by lowering the scores of other classes; its images are not visually prominent.",
    command="phosphene impress limousine --recipe class_model:score=posterior --preset paper",
)
def posterior(material: Material) -> Drawn:
    """The class model by logit, posterior and its logarithm: how far each raises its class or lowers the others."""
    kinds = {"logit": "logit", "posterior": "posterior", "log posterior": "probability"}
    made = [
        material.impressions(["limousine"], f"class_model:score={score}", _STEPS, preset="paper")[0]
        for score in kinds.values()
    ]
    classifier = material.classifier
    size = made[0].image.shape[-2:]
    images = torch.stack([classifier.mean_picture((int(size[0]), int(size[1]))).cpu(), *(one.image for one in made)])
    logits = forward(classifier, images.to(classifier.device)).cpu()
    index = made[0].target.classes[0]
    own = logits[:, index] - logits[0, index]
    rest = torch.cat([logits[:, :index], logits[:, index + 1 :]], dim=1)
    others = (rest.topk(10, dim=1).values.mean(dim=1) - rest[0].topk(10).values.mean()).tolist()
    contrast = [float(image.std()) for image in images]
    texts = [
        f"{name}\nclass {float(own[row]):+.1f}, best ten others {others[row]:+.1f}" for row, name in enumerate(kinds, 1)
    ]
    return Drawn(
        contact_sheet([to_pil(one.image) for one in made], texts, columns=3, cell=224),
        {
            "the logit raises the class more than the posterior does": float(own[1]) > float(own[2:].max()),
            "the posterior keeps the other classes lower than the logit does": max(others[2:]) < others[1],
        },
        {
            "kinds": list(kinds),
            "rise_of_the_class": own[1:].tolist(),
            "rise_of_the_best_ten_others": others[1:],
            "contrast": contrast[1:],
        },
    )


_DISTANCES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.1)


@figure(
    "taylor",
    "The linear model, and how far it holds",
    claim="Near the picture the score is about w.I + b, so w says which pixels have the most influence.",
    command="phosphene explain PICTURE --method saliency",
)
def first_order(material: Material) -> Drawn:
    """The change of the score against what the gradient foretells, for random changes of growing size and along w."""
    classifier = material.classifier
    picture = material.photograph("cat")
    image = classifier.preprocessed([picture], classifier.views([picture]))
    best = int(forward(classifier, image).argmax())
    score, gradient = input_gradient(classifier, image, Target.of(best))
    generator = torch.Generator().manual_seed(material.seed)
    noise = torch.randn(8, *image.shape[1:], generator=generator).to(image)
    along = gradient / gradient.square().mean().sqrt()
    errors: dict[str, list[float]] = {"random directions": [], "along the gradient": []}
    for distance in _DISTANCES:
        for name, directions in (("random directions", noise), ("along the gradient", along)):
            moved = forward(classifier, image + distance * directions)[:, best] - score
            told = distance * (directions * gradient).flatten(1).sum(dim=1)
            errors[name].append(float((moved - told).abs().mean() / told.abs().mean()))
    random = errors["random directions"]
    chart = line_chart(
        errors,
        ticks=[f"{distance:g}" for distance in _DISTANCES],
        xlabel="size of the change, root mean square in [0, 1] units",
        ylabel="error of the linear model, relative",
        bounds=(0.0, min(2.0, max(map(max, errors.values())))),
    )
    return Drawn(
        chart,
        {
            "for small changes the linear model foretells the score (error below .2)": random[0] < 0.2,
            "its error grows with the change, up to a hundredth": all(
                later > earlier for earlier, later in pairwise(random[:-1])
            ),
            "a change of a tenth is beyond it (error above .5)": random[-1] > 0.5,
        },
        {"distances": list(_DISTANCES), "errors": errors, "score": float(score[0])},
    )
