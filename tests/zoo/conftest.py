"""The tests of real architectures need timm and torchvision: `make test-zoo` installs them and runs these."""

from __future__ import annotations

from importlib.util import find_spec

_ARCHITECTURES = [
    *("networks.py", "test_networks.py", "test_families.py", "test_networks_of_the_papers.py", "test_published.py")
]
_TASKS = ["tasks.py", "table.py", "test_tasks.py"]

collect_ignore = []
if not find_spec("timm") or not find_spec("torchvision"):
    collect_ignore += [*_ARCHITECTURES, *_TASKS]
elif not all(map(find_spec, ("transformers", "onnx", "onnxruntime", "ai_edge_litert"))):
    collect_ignore += _TASKS
if not find_spec("torchvision") or not find_spec("pytorch_grad_cam"):
    collect_ignore.append("test_cam_peers.py")
