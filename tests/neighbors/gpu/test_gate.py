"""Kernels that cannot be trusted are not used, and one warning says why."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch

from dm2at_ray.neighbors.gpu import available, check, gate, lang

DEVICE = torch.device("cuda", 0)


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine that seems to have one H100, and nothing found out about it yet."""
    monkeypatch.setattr(gate, "_works", gate._works.__wrapped__)
    monkeypatch.setattr(lang, "WHY_MISSING", None)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    return monkeypatch


def set_checks(patch: pytest.MonkeyPatch, *checks: Any) -> None:
    self_check = pytest.importorskip("dm2at_ray.neighbors.gpu.self_check")
    patch.setattr(self_check, "CHECKS", checks)


def test_available__only_on_cuda_devices() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not available("cpu")
        assert not available(torch.device("meta"))


def test_available__where_every_check_passes(one_gpu: pytest.MonkeyPatch) -> None:
    seen: list[torch.device] = []
    set_checks(one_gpu, seen.append, seen.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert available("cuda")
    assert seen == [DEVICE, DEVICE]


def test_available__not_with_a_wrong_answer(one_gpu: pytest.MonkeyPatch) -> None:
    def check(device: torch.device) -> None:
        raise ArithmeticError("SAD filter: 3 pairs found, 4 expected\nand more lines")

    set_checks(one_gpu, check)
    with pytest.warns(UserWarning, match="ArithmeticError: SAD filter: 3 pairs found, 4 expected$"):
        assert not available(DEVICE)


def test_available__not_on_an_old_gpu(one_gpu: pytest.MonkeyPatch) -> None:
    one_gpu.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.warns(UserWarning, match=r"compute capability is 7\.5, they need 8\.0"):
        assert not available(DEVICE)


def test_available__not_without_triton(one_gpu: pytest.MonkeyPatch) -> None:
    one_gpu.setattr(lang, "WHY_MISSING", "Triton with Gluon is not installed (No module named 'triton')")
    with pytest.warns(UserWarning, match="on cuda:0, plain torch is, .* Triton with Gluon is not installed"):
        assert not available(DEVICE)


def test_available__not_on_another_makers_gpu(one_gpu: pytest.MonkeyPatch) -> None:
    one_gpu.setattr(torch.version, "hip", "6.4")
    with pytest.warns(UserWarning, match="written for NVIDIA GPUs"):
        assert not available(DEVICE)


def test_available__warns_once_a_process(one_gpu: pytest.MonkeyPatch) -> None:
    one_gpu.undo()
    gate._works.cache_clear()
    one_gpu.setattr(gate, "why_not", lambda device: "a reason")
    with pytest.warns(UserWarning, match="a reason"):
        assert not available(DEVICE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not available(DEVICE)
    gate._works.cache_clear()


def test_package__loads_triton_only_when_asked_and_nothing_else_ever() -> None:
    """Seen in a fresh interpreter: a GPU machine needs torch and Triton for `gpu.check`, no more."""
    code = """
import json, sys
import dm2at_ray.neighbors, dm2at_ray.neighbors.gpu, dm2at_ray.neighbors.gpu.check
early = "triton" in sys.modules
import dm2at_ray.neighbors.gpu.self_check, dm2at_ray.neighbors.gpu.timing
unwanted = [m for m in ("ray", "pydantic", "typer", "numba") if m in sys.modules]
print(json.dumps([early, unwanted]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, []]


def test_package__can_be_imported_without_triton() -> None:
    code = """
import sys
sys.modules["triton"] = None
from dm2at_ray.neighbors.gpu import lang, sad, gemm, pairs, measure, search, self_check, timing
print(lang.WHY_MISSING)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Triton with Gluon is not installed")


def test_check__says_in_one_line_that_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["check"])
    assert check.main() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["gpu.check: torch sees no CUDA GPU on this machine; nothing was checked"]
