"""phosphene.batch: an explanation, a prediction or an object for each picture of a source, in shards."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch

from phosphene.batches.crew import Crew
from phosphene.batches.engines import Engine, InProcess, Processes
from phosphene.batches.guard import Guarded
from phosphene.batches.maker import ShardMaker, find_class, meant_classes
from phosphene.batches.masks import Masks
from phosphene.batches.ray_data import RayData, cluster
from phosphene.batches.work import Made, Work, cut
from phosphene.cancel import Cancel
from phosphene.classifier import Classifier
from phosphene.errors import CancelledError, InputError, OptionError, reason, warn
from phosphene.runtime import Prepared
from phosphene.runtime.prepare import Precision
from phosphene.sources import Entry, Source, open_source
from phosphene.store import (
    MapType,
    Plan,
    ShardCounts,
    ShardFormat,
    begin,
    in_shards,
    keep_inputs,
    locked,
    read_shard,
    remove_partial_files,
    shard_counts,
    shard_names,
    taken_back,
    write_manifest,
)
from phosphene.tasks import ExplainConfig, LocateConfig, PictureTask, PredictConfig
from phosphene.zoo import ModelChoice

# Called with (pictures done, pictures in all, what is being done, how fast, until when, failures so far).
Announce = Callable[[int, int, str], None]
TaskName = Literal["explain", "predict", "locate"]

# Long side of the overlays that shards keep.
_OVERLAY_SIDE = 640


@dataclass(frozen=True)
class Engines:
    """Where the parts of a run, such as shards, are made.

    Args:
        workers: processes, or actors on Ray; 0 for this process alone, None on Ray for all that it has.
        ray: "local" or the address of a cluster; None for no Ray.
        num_gpus: of each actor on Ray; None for one where the device is a GPU, else none.
    """

    workers: int | None = 0
    ray: str | None = None
    num_gpus: float | None = None

    def chosen(self, classifier: Prepared) -> Engine:
        """The engine that was asked for.

        Raises:
            OptionError: for GPUs without Ray.
        """
        if self.ray is not None:
            gpus = float(classifier.device.type == "cuda") if self.num_gpus is None else self.num_gpus
            return RayData(self.ray, self.workers or None, gpus)
        if self.num_gpus is not None:
            raise OptionError("--num-gpus is for Ray; add --ray, or drop it")
        return Processes(self.workers) if self.workers else InProcess(classifier)

    def connected(self, threads: int | None) -> AbstractContextManager[Any]:
        """A block for several runs one after the other, which on Ray have one cluster.

        Args:
            threads: of each worker; None for one.

        Raises:
            MissingExtraError: if Ray is not installed.
            ResourceError: if there is no cluster.
        """
        return nullcontext() if self.ray is None else cluster(self.ray, self.workers or None, threads or 1)


def batch(
    classifier: Classifier | str,
    source: str | os.PathLike[str] | Source | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    task: TaskName | PictureTask = "explain",
    method: str | Sequence[str] = (),
    classes: str = "top1",
    shard_size: int = 1000,
    maps: MapType = "float16",
    overlays: bool = False,
    masks: str | None = None,
    limit: int | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    workers: int = 0,
    ray: str | None = None,
    num_gpus: float | None = None,
    overwrite: bool = False,
    precision: Precision = "exact",
    device: str | None = None,
    threads: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Announce | None = None,
) -> dict[str, Any]:
    """Explain, classify or locate all pictures of a source, into Parquet shards that survive whatever happens.

    A shard is there when it is whole. Called again with the same arguments, a run that was killed goes on with the
    shards that are missing. A picture that cannot be read is a row with its error; so is one that kills its worker,
    where workers are processes of their own.

    Args:
        classifier: a Classifier, or a spec for load_classifier such as "embedded"; workers load it by themselves.
        source: folder, pattern, table with a column of paths, list of paths, tar archives, a URL of any of these; or
            several.
        out: folder or URL of the run.
        task: "explain", "predict" or "locate", or a config of phosphene.tasks with all of its options.
        method: method specs; without any grad_cam, or the preset's of locate.
        classes: a class by index, WordNet id or name, or 'topK' for the K best of each picture.
        shard_size: pictures in a shard.
        maps: type that map values are kept with, "none", "float16" or "float32".
        overlays: whether overlays are kept, as JPEG in a column of their own.
        masks: folder of masks, or the column that names them, or "located": which share of the evidence lies inside.
        limit: the first pictures alone.
        path_column: of a table; None for the usual names.
        label_column: of a table; None for the usual names.
        workers: processes of their own; 0 computes in this one.
        ray: "local" or the address of a Ray cluster.
        num_gpus: of each actor on Ray.
        overwrite: replace the run that is there.
        precision: "exact" or "fast".
        device: where to run.
        threads: to compute with, of each worker.
        seed: of everything random.
        batch_size: images that go through the network together; None for the task's own.
        progress: called with (pictures done, pictures in all, text).

    Returns:
        {"run", "pictures", "rows", "ok", "failed", "shards", "seconds", "pictures_per_second", ...}: rows, of the
        whole run, are those of the shards, one for each picture, method and class; seconds and rate are of this call.

    Raises:
        InputError: if the source cannot be listed.
        OptionError: for options that make no sense, or a run of another plan in `out`, naming what is different.
        OutputError: if the run cannot be written, or another process is writing it.
        ResourceError: if workers go on dying.

    Example:
        >>> from skimage.data import chelsea
        >>> from PIL import Image
        >>> (tmp / "photos").mkdir()
        >>> Image.fromarray(chelsea()).save(tmp / "photos" / "cat.jpg")
        >>> answer = batch("embedded", tmp / "photos", tmp / "run", method="grad_cam")
        >>> answer["rows"], answer["failed"], answer["shards"]
        (1, 0, 1)
    """
    given = {} if batch_size is None else {"batch_size": batch_size}
    methods = (method,) if isinstance(method, str) else tuple(method)
    config = _config(task, methods, classes, given) if isinstance(task, str) else task
    choice = ModelChoice(classifier, device=device, precision=precision, threads=threads)
    columns = {"path_column": path_column, "label_column": label_column}
    opened = open_source(source, **{name: value for name, value in columns.items() if value is not None})
    specs = () if isinstance(source, Source) else (source,) if isinstance(source, str | os.PathLike) else source
    return run_batch(
        opened,
        config,
        choice,
        os.fspath(out),
        cutting=Cutting(shard_size, maps, overlays, masks, limit),
        engines=Engines(workers, ray, num_gpus),
        overwrite=overwrite,
        seed=seed,
        progress=progress,
        told={"spec": [os.fspath(spec) for spec in specs], **columns},
    )


def _config(name: str, methods: tuple[str, ...], classes: str, given: dict[str, Any]) -> PictureTask:
    if name == "explain":
        return ExplainConfig.of(methods, classes=classes, **given)
    if name == "locate":
        return LocateConfig.of(methods, classes=classes, **given)
    if name != "predict":
        raise OptionError(f"task '{name}'; choose explain, predict or locate")
    if methods:
        raise OptionError("predict has no methods; drop them, or explain")
    return PredictConfig(**given)


@dataclass(frozen=True)
class Cutting:
    """How a run is cut and what its shards keep.

    Args:
        shard_size: pictures in a shard.
        maps: type that map values are kept with.
        overlays: whether overlays are kept.
        masks: as --masks says it.
        limit: the first pictures alone; None for all.
    """

    shard_size: int = 1000
    maps: MapType = "float16"
    overlays: bool = False
    masks: str | None = None
    limit: int | None = None


@dataclass
class _Tally:
    """What is done and how fast, told by any number of workers."""

    command: str
    total: int
    announce: Announce | None
    done: ShardCounts
    begun: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._lock, self._running, self._before = threading.Lock(), dict[int, ShardCounts](), self.done.pictures

    def tell(self, number: int, counts: ShardCounts) -> None:
        """A shard is done as far as this."""
        with self._lock:
            self._running[number] = counts
            self._say()

    def made(self, made: Made) -> None:
        """A shard is in its place."""
        with self._lock:
            self._running.pop(made.number, None)
            self.done += made.counts
            self._say()

    def _say(self) -> None:
        if self.announce is None:
            return
        now = sum(self._running.values(), self.done)
        rate = (now.pictures - self._before) / max(time.perf_counter() - self.begun, 1e-9)
        left = "" if rate == 0 else f", {in_words((self.total - now.pictures) / rate)} left"
        self.announce(now.pictures, self.total, f"{self.command}, {rate:.1f} pictures/s{left}, {now.failed} failed")


def in_words(seconds: float) -> str:
    """A time to wait, as people say it.

    Example:
        >>> in_words(42), in_words(600), in_words(9000)
        ('42 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def run_batch(
    source: Source,
    task: PictureTask,
    choice: ModelChoice,
    out: str,
    *,
    cutting: Cutting,
    engines: Engines,
    overwrite: bool = False,
    seed: int = 0,
    progress: Announce | None = None,
    cancel: Cancel | None = None,
    told: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Do a task for all pictures of a source, in shards; the answer of `phosphene batch`.

    Args:
        source: of the pictures.
        task: what is done with them.
        choice: of the classifier.
        out: folder or URL of the run.
        cutting: of the run into shards.
        engines: who makes them.
        overwrite: replace the run that is there.
        seed: of everything random.
        progress: called with (pictures done, pictures in all, text).
        cancel: ends the run after the batch under way.
        told: how the source was told, so that a report finds the pictures again.

    Raises:
        PhospheneError: for what concerns the whole run: options, model, output folder.
        CancelledError: if it was stopped; the shards that were finished are kept.
    """
    started, cancel = time.perf_counter(), cancel or Cancel()
    if cutting.limit is not None:
        source = _First(source, cutting.limit)
    masks = None if cutting.masks is None else Masks.of(cutting.masks, source)
    classifier = choice.load()
    task = _checked(task, classifier, seed, cutting)
    format = ShardFormat(cutting.maps, cutting.overlays, source.column_types)
    keys = _listed(source, classifier, out, overwrite)
    if masks is not None:
        masks.check(keys)
    facts = {
        "model": choice.described(classifier),
        "options": task.described(),
        "seed": seed,
        "precision": choice.precision,
        "masks": cutting.masks,
    }
    about = {"threads": torch.get_num_threads(), "device": str(classifier.device), "folder": os.getcwd()}
    about |= {"source": dict(told or {})}
    plan = in_shards(Plan(task.rows.kind, keys, facts, about), format, cutting.shard_size)
    engine, guard = engines.chosen(classifier), partial(Guarded, pictures_at_once=task.pictures_at_once(classifier))
    del classifier  # workers of their own have theirs
    with locked(out):
        place, manifest = begin(out, plan, overwrite=overwrite, resume=not overwrite)
        remove_partial_files(place)
        finished = _finished(place)
        crew = Crew(Work(place, choice, task, format, plan.digest, masks), ShardMaker, guard)
        tally = _Tally(plan.command, len(keys), progress, sum(finished.values(), ShardCounts()))
        made: list[Made] = []
        shards = cut(source, keys, cutting.shard_size, finished.keys())
        with taken_back(place, lambda: not finished and not made):
            try:
                for one in engine.run(crew, shards, tally.tell, cancel):
                    made.append(one)
                    tally.made(one)
            except CancelledError as stop:
                stop.place = place
                raise
            finally:
                facts = _facts(tally.done, made, time.perf_counter() - started, len(finished) + len(made))
                manifest |= facts | {"complete": tally.done.pictures == len(keys)}
                remove_partial_files(place)  # of workers that died
                write_manifest(place, manifest)
    done = tally.done
    if done.failed and done.failed == done.rows:
        warn(f"no picture could be used; the first: {_first_error(place)}")
    return {
        "run": place,
        "pictures": done.pictures,
        "rows": done.rows,
        "ok": done.rows - done.failed,
        "failed": done.failed,
        "shards": facts["shard_files"],
        **{name: facts[name] for name in ("seconds", "pictures_per_second", "idle_share", "deaths")},
    }


def _first_error(place: str) -> str:
    """Why the first picture of a run failed."""
    for name in shard_names(place).values():
        for record in read_shard(place, name, ["key", "error"])[0]:
            if record["error"]:
                return f"{record['key']}: {reason(record['error'], record['key'])}"
    return "no word of it"


def _facts(done: ShardCounts, made: Sequence[Made], seconds: float, files: int) -> dict[str, Any]:
    """What the manifest says of a run that has ended, or of its last part."""
    working = sum(one.seconds for one in made)
    return {
        "pictures": done.pictures,
        "rows": {"ok": done.rows - done.failed, "error": done.failed},
        "shard_files": files,
        "seconds": seconds,
        "pictures_per_second": sum(one.counts.pictures for one in made) / seconds,
        "idle_share": sum(one.waited for one in made) / working if working else None,
        "deaths": sum(one.deaths for one in made),
    }


class _First(Source):
    """The first pictures of a source."""

    def __init__(self, source: Source, limit: int) -> None:
        if limit < 1:
            raise OptionError(f"--limit {limit}: give 1 or more")
        self.source, self.limit = source, limit
        self.place = getattr(source, "place", "")
        self.label_column = getattr(source, "label_column", None)

    @property
    def column_types(self) -> Any:
        return self.source.column_types

    def entries(self) -> Any:
        return islice(self.source.entries(), self.limit)


def _checked(task: PictureTask, classifier: Prepared, seed: int, cutting: Cutting) -> PictureTask:
    """The task with classes and layers understood, that draws what is kept and nothing else."""
    if isinstance(task, ExplainConfig):
        if task.versus is not None or task.scale == "shared":
            raise OptionError("shards hold the map of one class, on its own scale; drop --versus and --scale")
        return replace(task, seed=seed, overlay_side=_OVERLAY_SIDE if cutting.overlays else 0).checked(classifier)
    if isinstance(task, LocateConfig):
        return replace(task, seed=seed, is_drawn=cutting.overlays).checked(classifier)
    if cutting.masks is not None:
        raise OptionError("--masks asks where the evidence lies, and predict has none; explain or locate")
    return task


def _listed(source: Source, classifier: Prepared, out: str, overwrite: bool) -> tuple[str, ...]:
    """The keys of all pictures; labels that mean no class are told, and pictures that would be cleared refused."""
    keys: list[str] = []
    labels: dict[str, str] = {}

    def paths() -> Iterable[str]:
        for entry in source.entries():
            keys.append(entry.key)
            _remember(labels, entry)
            yield entry.path

    if overwrite:
        keep_inputs(out, overwrite, paths())
    else:
        for _ in paths():
            pass
    if not keys:
        raise InputError("the source lists no picture")
    _check_labels(source, classifier, labels)
    unknown = [label for label in labels if not meant_classes(classifier, label)]
    if unknown:
        warn(
            f"{len(unknown)} of {len(labels)} labels mean no class of {classifier.name}, the first is "
            f"'{unknown[0]}' of {labels[unknown[0]]}: their pictures are neither right nor wrong",
        )
    return tuple(keys)


def _check_labels(source: Source, classifier: Prepared, labels: Iterable[str]) -> None:
    """Refuse yes and no of one class, which would be read as the numbers of the first two classes.

    Of the second of two classes they are these numbers.
    """
    column, given = getattr(source, "label_column", None), set(labels)
    if not (column and given and given <= {"0", "1", "0.0", "1.0"}):
        return
    index = find_class(classifier, column)
    if index is not None and (index, len(classifier.labels)) != (1, 2):
        raise OptionError(
            f"the column '{column}' says of one class whether it is there, and 0 and 1 would be read as the first two "
            "classes; give a column of class names (several of one picture as A|B): label_column=, --label-column"
        )


def _remember(labels: dict[str, str], entry: Entry) -> None:
    if entry.label is not None:
        labels.setdefault(entry.label, entry.path)


def _finished(place: str) -> dict[int, ShardCounts]:
    """The shards that are there and whole, by number; one that a disk has damaged is made again."""
    found = {}
    for number, name in shard_names(place).items():
        try:
            found[number] = shard_counts(place, name)
        except InputError as error:
            warn(f"{error}; it is made again")
    return found
