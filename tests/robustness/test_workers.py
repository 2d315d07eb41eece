"""Several threads on one classifier, forked and spawned workers: the same maps as alone."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from phosphene.classifier import Classifier
from phosphene.graph import trace
from phosphene.hooks import capture
from phosphene.runtime import prepare
from phosphene.targets import Target
from tests.comparing import map_error
from tests.contract import checks
from tests.networks import classifier_of, pooled
from tests.robustness.strange import CASES, SIZE
from tests.robustness.test_as_written import asked, explained, pictures

MOST = 1e-6
ROOT = Path(__file__).parents[2]
STRANGE = [
    "a_norm_with_its_activation",
    "gradients_edited_by_a_hook_on_a_value",
    "positions_that_move",
    "a_layer_used_at_three_places",
    "a_norm_whose_statistics_were_taken_away",
]


@pytest.mark.parametrize("name", STRANGE)
def test_four_threads_ask_one_classifier_for_everything_at_once(name: str) -> None:
    """From the first call on, which each of them may be the one to make."""
    case, images = CASES[name], pictures()
    alone = {way: explained(way, classifier_of(case.make(), SIZE), images, case) for way in asked(case)}
    classifier, together = classifier_of(case.make(), SIZE), threading.Barrier(4)

    def work(first: int) -> dict[str, torch.Tensor | None]:
        torch.set_num_threads(1)
        ways = asked(case)
        together.wait()
        return {way: explained(way, classifier, images, case) for way in ways[first:] + ways[:first]}

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, (0, 2, 4, 6)):
            assert {way: map_error(found[way], alone[way]) <= MOST for way in alone} == dict.fromkeys(alone, True)


def test_methods_with_rules_and_hooks_do_not_see_each_other() -> None:
    """All methods at once, each on its own thread, around one network."""
    classifier, images, target = classifier_of(pooled()), torch.rand(2, 3, 16, 16), Target.of([1, 3])
    own = [name for name in checks.method_names() if not name.startswith("captum:")]
    methods = [name for name in own if checks.home(name) is pooled]
    alone = {name: checks.explain(checks.quick_spec(name), classifier, images, target).maps for name in methods}
    fresh = classifier_of(pooled())
    with ThreadPoolExecutor(len(methods)) as pool:
        jobs = {
            name: pool.submit(checks.explain, checks.quick_spec(name), fresh, images, target)
            for _ in range(2)
            for name in methods
        }
        errors = {name: map_error(job.result().maps, alone[name]) for name, job in jobs.items()}
    assert all(error <= 1e-5 for error in errors.values()), errors


def test_a_change_made_between_the_calls_of_several_threads_is_seen_by_all() -> None:
    classifier, images, target = classifier_of(pooled()), torch.rand(2, 3, 16, 16), Target.of([1, 3])
    spec = checks.quick_spec("saliency")
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            classifier.module[0].weight.data.mul_(-1.3)
            wanted = checks.explain(spec, Classifier(classifier.module, classifier.preprocess), images, target).maps
            jobs = [pool.submit(checks.explain, spec, classifier, images, target) for _ in range(8)]
            assert all(map_error(job.result().maps, wanted) <= MOST for job in jobs)


class Pausing(nn.Module):
    """While its code is read (or run) it does something in the middle, once."""

    def __init__(self, pause: Callable[[], None]) -> None:
        super().__init__()
        self.layer, self.pauses = nn.Conv2d(3, 5, 3), [pause]

    def __deepcopy__(self, memo: dict[int, object]) -> Pausing:
        found = Pausing(lambda: None)
        found.pauses = self.pauses
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pauses:
            self.pauses.pop()()
        return self.layer(x).mean((2, 3))


def test_reading_one_network_does_not_disturb_another_thread() -> None:
    """The code of a network is read by running it on stand-ins, for which PyTorch changes all modules of a process."""
    other, images = pooled(), torch.rand(2, 3, 16, 16)
    wanted, inside, done = other(images), threading.Event(), threading.Event()

    def pause() -> None:
        inside.set()
        done.wait(10)

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(trace, Pausing(pause).eval())
        assert inside.wait(10)
        try:
            assert torch.equal(other(images), wanted)
            assert other[0].weight.shape == (6, 3, 3, 3)
        finally:
            done.set()
        assert job.result() is not None


def test_two_networks_read_at_once_leave_no_trace_in_all_modules() -> None:
    before = nn.Module.__call__, nn.Module.__getattr__
    first_inside, second_inside, first_done = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        first_inside.set()
        second_inside.wait(1)  # (in vain where one has to wait for the other)

    def second() -> None:
        second_inside.set()
        first_done.wait(1)

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(trace, Pausing(first).eval())
        assert first_inside.wait(10)
        other = pool.submit(trace, Pausing(second).eval())
        one.result()
        first_done.set()
        other.result()
    try:
        assert (nn.Module.__call__, nn.Module.__getattr__) == before
    finally:
        nn.Module.__call__, nn.Module.__getattr__ = before  # type: ignore[method-assign]


def test_several_classifiers_are_used_for_the_first_time_at_once() -> None:
    images, target = torch.rand(2, 3, 16, 16), Target.of([1, 3])
    specs = [checks.quick_spec(name) for name in ("saliency", "occlusion", "grad_cam", "cam")]
    wanted = [checks.explain(spec, classifier_of(pooled()), images, target).maps for spec in specs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            jobs = [pool.submit(checks.explain, spec, classifier_of(pooled()), images, target) for spec in specs]
            for job, maps in zip(jobs, wanted, strict=True):
                assert map_error(job.result().maps, maps) <= 1e-5


WORKER = """
    import multiprocessing, sys, warnings
    import torch
    from phosphene.targets import Target
    from tests.contract import checks
    from tests.networks import classifier_of, pooled

    METHODS = ["saliency", "grad_cam", "occlusion", "guided_backprop", "integrated_gradients"]

    def maps(classifier, images):
        return [
            checks.explain(checks.quick_spec(name), classifier, images, Target.of(1)).maps.tolist() for name in METHODS
        ]

    def work(given):
        torch.set_num_threads(1)  # (after a fork PyTorch's own convolutions wait for threads that are gone)
        return maps(*given)

    def close(found, wanted):
        return all(torch.allclose(torch.tensor(a), torch.tensor(b), 1e-4, 1e-6) for a, b in zip(found, wanted))

    if __name__ == "__main__":
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        classifier, images = classifier_of(pooled()), torch.rand(4, 3, 16, 16)
        alone = maps(classifier, images) if sys.argv[2] == "used" else None
        context = multiprocessing.get_context(sys.argv[1])
        with context.Pool(1) as pool:
            found = pool.map(work, [(classifier, images)] * 2)
        alone = alone or maps(classifier, images)
        print("same" if all(close(one, alone) for one in found) else "other")
"""


@pytest.mark.parametrize(("start", "used"), [("fork", "used"), ("fork", "fresh"), ("spawn", "used")])
def test_a_worker_gives_what_its_parent_gives(start: str, used: str, tmp_path: Path) -> None:
    """Whether the parent has explained something before, with threads of its own, or not."""
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "2"}
    ran = subprocess.run(
        [sys.executable, str(script), start, used], env=environment, capture_output=True, text=True, timeout=150
    )
    assert ran.stdout.split() == ["same"], ran.stderr[-2000:]


def test_a_variant_made_during_a_trial_keeps_no_hook_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a copy of the network that the trial has laid hooks on, whose thread would go through them ever after."""
    prepared = prepare(classifier_of(pooled()))
    made: list[nn.Module] = []
    other = threading.Thread(target=lambda: made.append(prepared.module))

    @contextmanager
    def interrupted(*arguments: Any, **options: Any) -> Iterator[dict[str, torch.Tensor]]:
        with capture(*arguments, **options) as found:
            if other.ident is None:
                other.start()
                other.join(0.5)
            yield found

    monkeypatch.setattr("phosphene.runtime.layer_looks.capture", interrupted)
    assert prepared.default_layer
    other.join()
    assert not any(module._forward_hooks for module in made[0].modules())
