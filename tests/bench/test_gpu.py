"""The call that runs all that needs a GPU; its parts are told by what stands in for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dm2at_ray.bench import gpu
from dm2at_ray.bench.train import _parser


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that does what its first argument says."""
    code = "import sys, time\nexec(sys.argv[1])\n"
    (tmp_path / "stand_in.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "stand_in"


def test_part__returns_the_object_and_the_time(stand_in: str) -> None:
    answer = gpu.part([stand_in, "print('{\"rate\": 5}')"], limit=60)
    assert answer.pop("seconds") > 0  # type: ignore[operator]
    assert answer == {"rate": 5}


@pytest.mark.parametrize(
    ("does", "expected"),
    [
        ("sys.exit('no such thing')", {"error": "ended with code 1: no such thing"}),
        ("time.sleep(60)", {"error": "given up after 0.5 s"}),
    ],
    ids=["fails", "hangs"],
)
def test_part__a_failure_is_told(does: str, expected: dict[str, str], stand_in: str) -> None:
    assert gpu.part([stand_in, does], limit=0.5 if "sleep" in does else 60) == expected


def test_part__a_wrong_kernel_keeps_its_figures(stand_in: str) -> None:
    answer = gpu.part([stand_in, "print('{\"checks\": 1}'); sys.exit(1)"], limit=60)
    assert (answer["checks"], answer["error"]) == (1, "ended with code 1")


def test_main__one_object_of_all_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    modules: list[list[str]] = []

    def part(module: list[str], limit: float) -> dict[str, object]:
        modules.append(module)
        return {"error": "broken"} if "--compile" in module else {"rate": len(modules)}

    monkeypatch.setattr(gpu, "part", part)
    assert gpu.main(["--turns", "2"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "neighbors": {"rate": 1},
        "train": {"float32": {"rate": 2}, "bf16": {"rate": 3}, "bf16_compiled": {"error": "broken"}},
    }
    for module in modules[1:]:
        assert module[0] == "dm2at_ray.bench.train"
        assert _parser().parse_args(module[1:]).turns == 2


def test_main__without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "no CUDA GPU" in capsys.readouterr().err
