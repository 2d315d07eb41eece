"""What the page has at hand: classifiers, packaged pictures, runs to audit, the worker, the shelf of answers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from phosphene.errors import InputError, NotFoundError, printable, suggest
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.demo import demo_pictures
from phosphene.runtime import Prepared
from phosphene.store import Asset
from phosphene.web.audited import Audited
from phosphene.web.pictures import Packaged
from phosphene.web.shelf import Shelf
from phosphene.web.worker import Worker

_CHANNELS_KEPT = 400


@dataclass(frozen=True)
class Desk:
    """All that views look at; one for a server.

    Args:
        models: the classifiers by spec, in the order given; none comes from a user of the page.
        packaged: pictures that come with the libraries.
        runs: runs to audit, by the name of their folder.
        worker: the thread that computes.
        shelf: where the files of answers lie.
        channels: pictures that were drawn for channels, by model, layer and channel.
    """

    models: Mapping[str, Prepared]
    packaged: Packaged = field(default_factory=lambda: Packaged(demo_pictures()))
    runs: Mapping[str, Audited] = field(default_factory=dict)
    worker: Worker = field(default_factory=Worker)
    shelf: Shelf = field(default_factory=Shelf)
    channels: Kept = field(default_factory=lambda: Kept(_CHANNELS_KEPT))

    @classmethod
    def of(cls, models: Sequence[str], common: CommonOptions, runs: Sequence[str] = ()) -> Desk:
        """Load what the command line named.

        Raises:
            PhospheneError: for a model that cannot be loaded, or a folder that is no run.
        """
        loaded = {printable(spec): replace(common, model=spec).load() for spec in models or ("embedded",)}
        found: dict[str, Audited] = {}
        for place in runs:
            audited = Audited.of(place, next(iter(loaded.values())).labels)
            if audited.name in found:
                raise InputError(f"{place}: another run of that name is given; rename one of the folders")
            found[audited.name] = audited
        return cls(loaded, runs=found)

    @cached_property
    def first(self) -> str:
        """Spec of the first classifier."""
        return next(iter(self.models))

    def spec(self, model: str) -> str:
        """The spec that a question means; "" is the first.

        Raises:
            NotFoundError: for a model that was not named on the command line.
        """
        if model and model not in self.models:
            raise NotFoundError(
                f"no model '{model[:60]}' here{suggest(model, self.models)}; the command line names them"
            )
        return model or self.first

    def classifier(self, model: str) -> Prepared:
        """The classifier that a question means."""
        return self.models[self.spec(model)]

    def run(self, name: str) -> Audited:
        """The run of this name; "" is the first.

        Raises:
            NotFoundError: if there is none.
        """
        if not self.runs:
            raise NotFoundError("no run was given; start the page with --run FOLDER")
        if name and name not in self.runs:
            raise NotFoundError(f"no run '{name[:60]}'{suggest(name, self.runs)}")
        return self.runs[name or next(iter(self.runs))]


@dataclass(frozen=True)
class Drawn:
    """A picture that a channel responds to.

    Args:
        image: as it is shown.
        layer: whose channel was drawn; one that feeds the channel's layer where that gave no gradient.
    """

    image: Asset
    layer: str


class Kept:
    """The newest of some pictures, by key."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._made: OrderedDict[tuple[str, str, int], Drawn] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str, int]) -> Drawn | None:
        """The picture, if it is kept."""
        with self._lock:
            return self._made.get(key)

    def put(self, key: tuple[str, str, int], picture: Drawn) -> None:
        """Keep a picture."""
        with self._lock:
            self._made[key] = picture
            while len(self._made) > self.limit:
                self._made.popitem(last=False)
