"""Where a training's images wait until a step takes them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dm2at_ray.training import LabeledSet
from dm2at_ray.training import placed as module
from dm2at_ray.training.placed import PlacedSet

MakeLabeled = Callable[..., LabeledSet]
ROWS = np.array([4, 0, 2])


@pytest.mark.parametrize("name", ["images", "twins"])
def test_placed__pixels_of_rows_channels_first(name: str, make_labeled: MakeLabeled) -> None:
    labeled = make_labeled(6, twins="half")
    placed = PlacedSet(labeled, torch.device("cpu"))
    expected = getattr(labeled, name)[ROWS].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    found = getattr(placed, name)(ROWS)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), expected)
    assert len(placed) == 6


def test_placed__no_twins_where_there_are_none(make_labeled: MakeLabeled) -> None:
    placed = PlacedSet(make_labeled(6), torch.device("cpu"))
    assert placed.twins(ROWS).shape == (0, *placed.images(ROWS).shape[1:])


@pytest.mark.filterwarnings("error")
def test_placed__takes_arrays_that_may_not_be_written_to(make_labeled: MakeLabeled) -> None:
    labeled = make_labeled(6)
    labeled.images.setflags(write=False)
    before = labeled.images.copy()
    PlacedSet(labeled, torch.device("cpu")).images(ROWS).zero_()
    np.testing.assert_array_equal(labeled.images, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("share", [0.1, 0.0])
def test_placed__on_a_gpu_or_sent_there_the_same(
    share: float, make_labeled: MakeLabeled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARE_OF_GPU", share)
    labeled = make_labeled(6, twins="half")
    before = torch.cuda.memory_allocated()
    on_gpu = PlacedSet(labeled, torch.device("cuda"))
    assert (torch.cuda.memory_allocated() > before) == (share > 0)
    on_cpu = PlacedSet(labeled, torch.device("cpu"))
    for name in ("images", "twins"):
        found = getattr(on_gpu, name)(ROWS)
        assert found.is_cuda
        # A GPU divides by multiplying: the last bit of a pixel may differ.
        torch.testing.assert_close(found.cpu(), getattr(on_cpu, name)(ROWS), rtol=2e-7, atol=0)
