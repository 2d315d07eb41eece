"""The tests of real architectures need timm and torchvision: `make test-zoo` installs them and runs these."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = (
    []
    if find_spec("timm") and find_spec("torchvision")
    else ["networks.py", "table.py", "test_networks.py", "test_networks_of_the_papers.py", "test_published.py"]
)
if not find_spec("torchvision") or not find_spec("pytorch_grad_cam"):
    collect_ignore.append("test_cam_peers.py")
