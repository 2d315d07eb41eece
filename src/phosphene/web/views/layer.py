"""Layer: what its channels show for one picture, and what it responds to in a few."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from phosphene.errors import InputError, OptionError, PhospheneError
from phosphene.path_match import numbered
from phosphene.synthesis.facets import check_counts
from phosphene.tasks import ActivationsConfig, FeaturesConfig
from phosphene.tasks.facets import collect
from phosphene.web.asks import LayerAsk
from phosphene.web.desk import Desk
from phosphene.web.pictures import Chosen, check_picture
from phosphene.web.views.frame import file_url, how_to, render
from phosphene.web.worker import Job

MAX_PICTURES = 24
MAX_FACETS = 4
MAX_CHANNELS = 64
MAX_STEPS = 300


def activations(desk: Desk, ask: LayerAsk, chosen: Chosen, job: Job) -> Iterator[str]:
    """The strongest channels of a layer for one picture.

    Raises:
        PhospheneError: for what cannot be asked.
    """
    classifier = desk.classifier(ask.model)
    if not 1 <= ask.count <= MAX_CHANNELS:
        raise OptionError(f"{ask.count} channels; the page draws 1 to {MAX_CHANNELS}")
    item = chosen.item(**classifier.preprocess.reading)
    assert item.picture is not None
    config = ActivationsConfig((ask.layer,) if ask.layer else (), count=ask.count)
    job.progress(0, 2, "Looking at the picture")
    predicted, rows = config.run(classifier, item.picture)
    job.progress(1, 2, "Drawing the channels")
    (row,) = rows
    job.check()
    drawn = sorted((channel for channel in row.channels if channel.drawn), key=lambda channel: -channel.mean)
    yield render(
        "activations",
        row=row,
        drawn=drawn,
        name=chosen.name,
        predicted=predicted,
        picture=file_url(desk.shelf, row.picture),
        array=file_url(desk.shelf, row.array),
        calls=how_to(replace(ask, picture=chosen.name), desk.first),
    )


def features(desk: Desk, ask: LayerAsk, pictures: Sequence[Chosen], job: Job) -> Iterator[str]:
    """The facets of a layer in a few pictures, drawn.

    Raises:
        PhospheneError: for what cannot be asked, or pictures that cannot be read.
    """
    classifier = desk.classifier(ask.model)
    if not 1 <= ask.facets <= MAX_FACETS or not 1 <= ask.steps <= MAX_STEPS:
        raise OptionError(f"the page draws 1 to {MAX_FACETS} facets in 1 to {MAX_STEPS} steps")
    if len(pictures) > MAX_PICTURES:
        raise OptionError(f"{len(pictures)} pictures; the page takes {MAX_PICTURES}, the command any number")
    check_counts(len(pictures), ask.facets, ask.exemplars)
    config = FeaturesConfig(
        (ask.layer,) if ask.layer else (), ask.facets, ask.exemplars, steps=ask.steps, preset="best"
    )
    # Features read their pictures from files, again and again: these are whole, checked, and gone afterwards.
    with tempfile.TemporaryDirectory(prefix="phosphene-") as folder:
        paths = _written(pictures, Path(folder))
        try:
            collected = collect(classifier, paths, config.names(classifier), progress=job.progress)
            (row,) = config.run(classifier, collected, progress=job.progress)
        except PhospheneError as error:
            raise type(error)(str(error).replace(f"{folder}/", "")) from None
    broken = [str(record.error).replace(f"{folder}/", "") for record in collected.broken]
    facets: list[dict[str, Any]] = [
        {
            "row": facet,
            "image": file_url(desk.shelf, facet.image),
            "strip": file_url(desk.shelf, facet.strip),
            "exemplars": [
                {"url": file_url(desk.shelf, one.picture), "name": Path(one.path).name, "weight": one.weight}
                for one in facet.exemplars
            ],
        }
        for facet in row.facets
    ]
    yield render(
        "features",
        row=row,
        facets=facets,
        broken=broken,
        map=file_url(desk.shelf, row.map),
        points=file_url(desk.shelf, row.points),
        calls=how_to(ask, desk.first),
    )


def _written(pictures: Sequence[Chosen], folder: Path) -> list[Path]:
    """The pictures as files of their own names, those that are too large refused before anything is decoded."""
    paths = []
    for name, picture in zip(numbered(picture.name for picture in pictures), pictures, strict=True):
        check_picture(picture.name, picture.content)
        if "/" in name or name in (".", ".."):
            raise InputError(f"{name}: not the name of a file")
        paths.append(folder / name)
        paths[-1].write_bytes(picture.content)
    return paths
