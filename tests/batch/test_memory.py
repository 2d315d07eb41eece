"""A process that keeps what it freed gives it back between shards."""

import subprocess
import sys

import pytest

CODE = """
from phosphene.allocator import give_back_freed_memory, keep_freed_memory

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) // 1024

if {keeps}:
    assert keep_freed_memory()
pictures, kept = [], []
for _ in range(200):
    pictures.append(bytearray(2**20))
    kept.append(bytearray(5000))
del pictures
before = resident()
give_back_freed_memory()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_holes_between_what_is_kept_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", CODE.format(keeps=True)], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 150


def test_nothing_is_touched_where_memory_is_not_kept() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import phosphene.allocator as a; a._libc = None; a.give_back_freed_memory()"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
