"""What a run is to do, before it begins: the keys of its rows, and all that decides what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from phosphene.errors import OptionError
from phosphene.files import text_bytes
from phosphene.store.row_json import plain

# Characters up to which a message says what an option was.
_SHORT = 60


@dataclass(frozen=True)
class Plan:
    """The task of a run. A run is gone on with only under the plan that it was begun with.

    Args:
        command: what makes the rows, such as "explain".
        keys: of all rows to be made, in order; None if they are not known before.
        facts: what decides the rows, by their names in the manifest: model, options, seed, precision.
        about: what the manifest says besides: threads, device.

    Example:
        >>> Plan("explain", ("a.jpg",), {"seed": 0}).digest == Plan("explain", ("a.jpg",), {"seed": 1}).digest
        False
    """

    command: str
    keys: tuple[str, ...] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 over command, facts and keys: the same plan, the same text."""
        text = json.dumps([self.command, plain(self.facts), self.keys], sort_keys=True, default=str)
        return hashlib.sha256(text_bytes(text)).hexdigest()

    def described(self) -> dict[str, Any]:
        """The plan as the manifest carries it."""
        return {
            "plan": {"count": None if self.keys is None else len(self.keys), "digest": self.digest},
            **plain(self.facts),
            **plain(self.about),
        }


def check_same(place: str, plan: Plan, manifest: Mapping[str, Any], keys: tuple[str, ...] | None) -> None:
    """Refuse to go on with a run under another plan.

    Args:
        place: of the run.
        plan: the new one.
        manifest: of the run.
        keys: that the run was begun with; None if not known.

    Raises:
        OptionError: naming what is different, and what it was then.
    """
    if manifest.get("plan", {}).get("digest") == plan.digest:
        return
    differences = _differences("command", plan.command, manifest["command"])
    wanted = json.loads(json.dumps(plain(plan.facts), default=str))
    for name, value in wanted.items():
        differences += _differences(name, value, manifest.get(name))
    differences += _key_differences(plan.keys, keys)
    raise OptionError(
        f"{place}: was made with another {', '.join(differences or ['plan'])}; give the same as then, another --out, "
        "or --overwrite to begin anew"
    )


def _differences(name: str, wanted: Any, found: Any) -> list[str]:
    if isinstance(wanted, dict) and isinstance(found, dict):
        names = sorted({*wanted, *found})
        return [part for key in names for part in _differences(f"{name}.{key}", wanted.get(key), found.get(key))]
    if wanted == found:
        return []
    # Where a manifest keeps an option is nothing to whoever typed it.
    said = name.removeprefix("options.").replace("shards.columns.", "column ").replace("shards.", "shard ")
    then = "none" if found is None else json.dumps(found, ensure_ascii=False)
    return [f"{said} (then {then})" if len(then) <= _SHORT else said]


def _key_differences(wanted: tuple[str, ...] | None, found: tuple[str, ...] | None) -> list[str]:
    if wanted == found or wanted is None or found is None:
        return []
    new, gone = set(wanted) - set(found), set(found) - set(wanted)
    parts = [f"{len(keys)} {what} ('{min(keys)}')" for keys, what in ((new, "new"), (gone, "missing")) if keys]
    return [f"set of pictures: {', '.join(parts) or 'another order'}"]
