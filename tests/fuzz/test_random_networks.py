"""Random networks are explained as plain float64 autograd explains them.

`make test` tries the same two hundred networks each time; `make fuzz` as many others as PHOSPHENE_FUZZ says, from a
seed that it prints and that PHOSPHENE_FUZZ_SEED takes, and tells of all that are wrong.
"""

from __future__ import annotations

import os
import random

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.checking import Trial
from tests.fuzz.networks import Net
from tests.fuzz.strategies import networks

COUNT = int(os.environ.get("PHOSPHENE_FUZZ", "200"))
IS_FUZZING = "PHOSPHENE_FUZZ" in os.environ
SEED = int(os.environ.get("PHOSPHENE_FUZZ_SEED", random.SystemRandom().randrange(2**32)))


@pytest.fixture(scope="module", autouse=True)
def _seed_that_is_printed(request: pytest.FixtureRequest) -> None:
    if IS_FUZZING:
        reporter = request.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"{COUNT} random networks; PHOSPHENE_FUZZ_SEED={SEED} tries the same again")


@settings(
    max_examples=COUNT,
    derandomize=not IS_FUZZING,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    phases=[Phase.explicit, Phase.generate],  # (to shrink takes minutes)
)
@given(networks())
def check(net: Net) -> None:
    trial = Trial(net)
    hypothesis.assume(trial.is_run_by_pytorch)
    if failures := trial.failures():
        wrong[net] = failures
        print(net, failures, sep="\n", flush=True)


wrong: dict[Net, dict[str, str]] = {}


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning")
def test_random_networks() -> None:
    (hypothesis.seed(SEED)(check) if IS_FUZZING else check)()
    assert not wrong, f"{len(wrong)} of {COUNT}: {wrong}"
