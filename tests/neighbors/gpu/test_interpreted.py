"""`test_kernels.py` on a CPU: Triton's interpreter runs what compiled code would, a program at a time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


def test_kernels__in_the_interpreter() -> None:
    pytest.importorskip("triton.experimental.gluon", reason="Triton with Gluon is not installed")
    # In a process of its own: Triton decides once, as it is imported, whether to interpret.
    tests = Path(__file__).with_name("test_kernels.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(tests), "-p", "no:cacheprovider", "--no-header"],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|skipped)", done.stdout)}
    assert counts.keys() == {"passed"}
    assert counts["passed"] > 15
