"""What somebody may have meant by a spec that names no classifier."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor


def of_python_file(path: Path) -> str:
    """For a .py file without the name of what makes the network in it: the names that could.

    The file is read, not run: functions and variables at its top that need no arguments, and classes.

    Example:
        >>> place = tmp / "net.py"
        >>> _ = place.write_text("def build(): ...; def scaled(width): ...; class Net: ...".replace("; ", chr(10)))
        >>> of_python_file(place)
        'name what makes the network in it: ...net.py:build or ...net.py:Net'
        >>> parts = "class A: ...; class B: ...; class C: ...; class D: ...; def whole(): ..."
        >>> _ = place.write_text(parts.replace("; ", chr(10)))
        >>> of_python_file(place).partition(" or ")[0]
        'name what makes the network in it: ...net.py:whole'
    """
    if not path.is_file():
        return "no such file"
    ways = [f"{path}:{name}" for name in _makers_in(path)[:4]]
    return f"name what makes the network in it: {' or '.join(ways)}"


def _makers_in(path: Path) -> list[str]:
    """Names at the top of a file that may make a network; a placeholder if there is none."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, OSError):
        return ["NAME"]
    # Classes last: most of them are parts of a network, and stand above what puts them together.
    ordered = sorted(tree.body, key=lambda node: isinstance(node, ast.ClassDef))
    return [name for node in ordered for name in _makers(node)] or ["NAME"]


def _makers(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef):
        arguments = node.args
        needed = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
        return [node.name] if needed <= 0 and None not in arguments.kw_defaults and _is_public(node.name) else []
    if isinstance(node, ast.ClassDef):
        return [node.name] if _is_public(node.name) else []
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
        targets = [target.id for target in node.targets if isinstance(target, ast.Name)]
        return [name for name in targets if _is_public(name)]
    return []


def _is_public(name: str) -> bool:
    return not name.startswith("_")


def no_model(thing: object) -> str:
    """For what is neither a network nor the name of one: what it is, and what to give instead.

    Example:
        >>> no_model(torch.nn.Linear)
        'Linear is a class; make a network of it: Linear(...)'
        >>> no_model({"weight": torch.zeros(1)})
        'a dict of tensors is no model but the weights of one; load them into its network: network.load_state_dict(...)'
        >>> no_model(3)
        "int is no model; give a Classifier, a torch.nn.Module, or a spec such as 'embedded'"
    """
    if isinstance(thing, type):
        return f"{thing.__name__} is a class; make a network of it: {thing.__name__}(...)"
    if isinstance(thing, Mapping) and any(isinstance(value, Tensor) for value in thing.values()):
        return (
            "a dict of tensors is no model but the weights of one; load them into its network: "
            "network.load_state_dict(...)"
        )
    return f"{type(thing).__name__} is no model; give a Classifier, a torch.nn.Module, or a spec such as 'embedded'"


def of_bare_name(name: str) -> str:
    """For a name without a source, such as resnet50: where networks of such names come from.

    Example:
        >>> of_bare_name("resnet50")[:49]
        'did you mean torchvision:resnet50 or timm:resnet5'
    """
    missing = [source for source in ("torchvision", "timm") if find_spec(source) is None]
    install = f" (to be installed first: {' and '.join(missing)})" if missing else ""
    return f"did you mean torchvision:{name} or timm:{name}{install}?"


def of_weights(path: Path) -> str:
    """For a file that holds weights alone: how it is given with the network that the weights are of.

    Example:
        >>> of_weights(Path("nowhere/resnet50.safetensors"))
        'give it as the weights of its network: --model torchvision:resnet50 --weights nowhere/resnet50.safetensors'
    """
    code = path.with_suffix(".py")
    if code.is_file():
        return f"give it as the weights of its network: --model {code}:{_makers_in(code)[0]} --weights {path}"
    stem = path.stem.replace("-", "_").lower()
    network = f"torchvision:{stem}" if re.search(r"[0-9]", stem) else "net.py:factory"
    return f"give it as the weights of its network: --model {network} --weights {path}"
