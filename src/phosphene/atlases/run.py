"""phosphene.atlas: a static site of a whole network, drawn part by part, gone on with where it was stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch

from phosphene.atlases.desk import Desk, Part
from phosphene.atlases.pages import write_pages
from phosphene.atlases.plan import STAGES, stage
from phosphene.atlases.work import AtlasConfig, Work
from phosphene.batches import Again, Crew, Engine, Engines, InProcess
from phosphene.cancel import Cancel
from phosphene.classifier import Classifier
from phosphene.errors import CancelledError, InputError
from phosphene.files import is_url, join
from phosphene.labels import class_list
from phosphene.runtime.prepare import Precision
from phosphene.sources import open_pictures
from phosphene.store import Plan, begin, keep_inputs, locked, remove_partial_files, taken_back, write_manifest
from phosphene.zoo import ModelChoice

# Called with (parts done, parts in all, what is being done).
Announce = Callable[[int, int, str], None]
_ALONE = Engines()


def quiet(_done: int, _total: int, _text: str) -> None:
    """Shows no progress."""


def atlas(
    classifier: Classifier | str,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    out: str | os.PathLike[str] = "atlas",
    *,
    classes: str | int | Sequence[str | int] = "all",
    layers: Sequence[str] = (),
    channels: int | str | Sequence[int] = 48,
    seeds: int = 2,
    recipe: str = "class_impression",
    steps: int | None = None,
    channel_steps: int = 64,
    grid: int = 12,
    facets: int = 3,
    method: str = "grad_cam",
    limit: int | None = None,
    workers: int = 0,
    ray: str | None = None,
    num_gpus: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    precision: Precision = "exact",
    device: str | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: Announce | None = None,
) -> dict[str, Any]:
    """A static site of a network: a page for each class, layer and channel, search, and activation atlases.

    Its files open from disk or from any web server and ask for nothing else. What was finished of an atlas that was
    stopped or killed stays; with `resume` the rest is drawn, and the files are those of one that was never disturbed.

    Args:
        classifier: a Classifier, or a spec for load_classifier such as "embedded"; workers load it by themselves.
        images: pictures to look at: a folder, files, patterns, tables, archives, URLs; none for an atlas of drawings
            alone.
        out: folder of the site.
        classes: "all", or some by index, WordNet id or name.
        layers: dotted names, or "default"; none for the default layer.
        channels: how many of each layer, "all", or their indices.
        seeds: impressions of each class.
        recipe: of the impressions.
        steps: of the impressions; None for the recipe's own.
        channel_steps: of the pictures of channels, cells and facets.
        grid: cells of a side of the activation atlas; 0 for none.
        facets: of each layer; 0 for none.
        method: of the evidence on pictures.
        limit: the first pictures alone.
        workers: processes of their own that draw; 0 for this one alone, on Ray for as many as there is room for.
        ray: "local" or the address of a Ray cluster, whose machines see `out` and `images` under the same names.
        num_gpus: of each worker on Ray; None for one where the device is a GPU, else none.
        resume: go on with the atlas in `out`.
        overwrite: replace the one that is there.
        precision: "exact" or "fast".
        device: where to run.
        threads: to compute with, of each worker.
        seed: of everything random.
        progress: called with (parts done, parts in all, text).

    Returns:
        {"run", "index", "classes", "layers", "channels", "cells", "pictures", "errors", "pages", "bytes", "seconds"}.

    Raises:
        OptionError: for options that make no sense, or an atlas of another plan in `out`, naming what is different.
        InputError: if none of the pictures can be read.
        ResourceError: if there is no cluster, or workers go on dying.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> from phosphene.classifier import Preprocess
        >>> answer = atlas(Classifier(net, Preprocess((16, 16)), ["cat", "dog"]), out=tmp / "site", channels=2, steps=2)
        >>> answer["classes"], answer["channels"], (tmp / "site" / "index.html").is_file()
        (2, 2, True)

    References:
        carter2019 for the activation atlas.
    """
    config = AtlasConfig(
        classes=tuple(map(str, class_list(classes))),
        layers=tuple(layers),
        channels=str(channels) if isinstance(channels, int | str) else "".join(f"{index}," for index in channels),
        seeds=seeds,
        recipe=recipe,
        steps=steps,
        channel_steps=channel_steps,
        grid=grid,
        facets=facets,
        method=method,
        limit=limit,
        seed=seed,
    )
    places = (images,) if isinstance(images, str | os.PathLike) else images or ()
    return run_atlas(
        config,
        ModelChoice(classifier, device=device, precision=precision, threads=threads),
        [os.fspath(place) for place in places],
        os.fspath(out),
        engines=Engines(workers, ray, num_gpus),
        resume=resume,
        overwrite=overwrite,
        progress=progress or quiet,
    )


def run_atlas(
    config: AtlasConfig,
    choice: ModelChoice,
    images: Sequence[str],
    out: str | None,
    *,
    engines: Engines = _ALONE,
    resume: bool = False,
    overwrite: bool = False,
    progress: Announce = quiet,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Draw an atlas; the answer of `phosphene atlas`.

    Args:
        config: what it shows.
        choice: of the classifier.
        images: what holds the pictures, as typed.
        out: folder or URL; None makes a new folder under ./phosphene-runs.
        engines: where the parts are drawn.
        resume: go on with the atlas that is there.
        overwrite: replace it.
        progress: called with (parts done, parts in all, text).
        cancel: ends the run within the part under way, which is left away.

    Raises:
        PhospheneError: for what concerns the whole run: options, model, pictures, output folder.
        CancelledError: if it was stopped; the parts that were finished are kept.
    """
    started, cancel = time.perf_counter(), cancel or Cancel()
    classifier = choice.load()
    config, engine = config.checked(classifier), engines.chosen(classifier)
    entries = list(islice(open_pictures(images).entries(), config.limit)) if images else []
    keep_inputs(out, overwrite, [*images, *(entry.path for entry in entries)])
    keys = tuple(entry.key for entry in entries)
    facts = {
        "model": choice.described(classifier),
        "options": config.described(),
        "seed": config.seed,
        "precision": choice.precision,
    }
    about = {"threads": torch.get_num_threads(), "device": str(classifier.device), "images": list(images)}
    if keys:
        config.try_method(classifier)
    with engines.connected(choice.threads), locked(out):  # before anything is written
        place, manifest = begin(out, Plan("atlas", keys, facts, about), overwrite=overwrite, resume=resume)
        remove_partial_files(place)
        desk = Desk(Work(place, choice, config, tuple(images), keys), classifier)
        with taken_back(place, lambda: number == 0 and "resumed" not in manifest):
            try:
                for number in range(STAGES):
                    _make(desk, number, engine, progress, cancel)
                    if number == 0 and keys and not desk.answers.pictures:
                        reason = desk.answers.broken[0]["error"]
                        raise InputError(f"none of the {len(keys)} pictures can be read ({reason})")
                progress(0, 1, "pages")
                written = write_pages(desk, manifest)
                manifest["complete"] = True
            except CancelledError as stop:
                stop.place = place
                raise
            finally:
                manifest["seconds"] = time.perf_counter() - started
                remove_partial_files(place)  # of workers that died or were stopped
                write_manifest(place, manifest)
    return {
        "run": place,
        "index": join(place, "index.html") if is_url(place) else os.path.join(place, "index.html"),
        **written,
        "seconds": manifest["seconds"],
    }


def _make(desk: Desk, number: int, engine: Engine, progress: Announce, cancel: Cancel) -> None:
    """Make the parts of a stage that are not there yet."""
    parts = stage(desk, number)
    left = [part for part in parts if not desk.is_made(part)]
    done = len(parts) - len(left)
    if isinstance(engine, InProcess) or len(left) < 2:
        for before, part in enumerate(left, done):

            def tell(inside: int, total: int, part: Part = part, before: int = before) -> None:
                progress(before, len(parts), f"{part.key}, {inside}/{total}")

            progress(before, len(parts), part.key)
            desk.make(part, tell, cancel)
            progress(before + 1, len(parts), part.key)
        return
    crew = Crew(desk.work, Desk, Again)
    for before, key in enumerate(engine.run(crew, iter(left), lambda *_told: None, cancel), done):
        progress(before + 1, len(parts), key)
