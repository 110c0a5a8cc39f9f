"""Each kernel against plain torch in integers or float64, on small inputs of odd sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from dm2at_ray.neighbors.gpu.gemm import GemmRows, GemmShape, launch_gemm
from dm2at_ray.neighbors.gpu.halves import COLUMNS, ROWS, HalfRows, Scale, launch_halves
from dm2at_ray.neighbors.gpu.measure import measure
from dm2at_ray.neighbors.gpu.nearest import GROUPS, nearest_codes
from dm2at_ray.neighbors.gpu.pairs import pair_distances
from dm2at_ray.neighbors.gpu.sad import SadRows, SadShape, launch_sad, to_words
from dm2at_ray.neighbors.gpu.survivors import Survivors
from dm2at_ray.neighbors.gpu.tiles import TileList
from dm2at_ray.neighbors.metric import Metric

N, M = 203, 151
DIMENSIONS = (1, 67, 128)

TWO_BLOCKS = np.array([[0, 130, 3, 151], [131, 132, 0, 151], [132, 203, 100, 101], [140, 140, 0, 151]])
ONE_BLOCK = np.array([[0, 141, 0, 141], [0, 141, 141, 203], [150, 203, 150, 203], [141, 142, 150, 203]])
METRIC = Metric(l1_weight=0.75, l2_weight=1.5)


class WrongAnswerError(Exception):
    """A kernel's result is not the reference's."""


def check_sad(device: torch.device) -> None:
    """Compare the certified filter's kernel with integers, in two blocks and in one.

    Raises:
        WrongAnswerError: a pair is missing, stands twice, or should not be there.
    """
    shape = SadShape()
    for d in DIMENSIONS:
        random = torch.Generator().manual_seed(d)
        codes = {"x": _codes(N, d, random), "y": _codes(M, d, random)}
        slack = {
            name: torch.randint(0, 2 * d, (len(rows),), generator=random) for name, rows in codes.items()
        }
        for other in ("x", "y"):
            sad = (codes["x"][:, None].to(torch.int64) - codes[other].to(torch.int64)).abs().sum(dim=2)
            bound = sad - slack["x"][:, None] - slack[other]
            reach = {"x": _nearest(bound), other: _nearest(bound.T)}
            want = bound <= torch.maximum(reach["x"][:, None], reach[other])
            rows = {
                name: SadRows(to_words(codes[name].to(device), shape), *_on(device, reach[name], slack[name]))
                for name in reach
            }
            launch = partial(launch_sad, x=rows["x"], y=rows[other], shape=shape)
            tile = shape.rows, shape.columns
            _compare(f"SAD filter, {d} dimensions", launch, tile, want, device, same=other == "x")


def check_halves(device: torch.device) -> None:
    """Compare the float16 filter's kernel with whole numbers, which it adds up exactly.

    Raises:
        WrongAnswerError: a pair is missing, stands twice, or should not be there.
    """
    for d in DIMENSIONS:
        random = torch.Generator().manual_seed(d)
        # 0 .. 15, so that a chain stays below 2^11, where float16 is exact.
        x, y = (_codes(n, d, random).remainder_(16).to(torch.float32) for n in (N, M))
        scale = Scale(torch.zeros(d, dtype=torch.float64, device=device), 1.0)
        for other in ("x", "y"):
            values = {"x": x, other: x if other == "x" else y}
            l1 = torch.cdist(x, values[other], p=1.0)
            reach = {"x": _nearest(l1), other: _nearest(l1.T)}
            want = l1 <= torch.maximum(reach["x"][:, None], reach[other]) + 1
            rows = {}
            for name, each in values.items():
                words, off = scale.words(each.to(device))
                if float(off.max()) > 1e-6:
                    raise WrongAnswerError(f"float16 filter, {d} dimensions: {float(off.max())} lost")
                rows[name] = HalfRows(words, reach[name].to(device), torch.full_like(off, 0.5).float())
            launch = partial(launch_halves, x=rows["x"], y=rows[other])
            _compare(
                f"float16 filter, {d} dimensions", launch, (ROWS, COLUMNS), want, device, same=other == "x"
            )


def check_gemm(device: torch.device) -> None:
    """Compare the shortlist filter's kernel with integers, in two blocks and in one.

    Raises:
        WrongAnswerError: a pair is missing, stands twice, or should not be there.
    """
    shape = GemmShape()
    for d in DIMENSIONS:
        random = torch.Generator().manual_seed(d)
        codes = {"x": _codes(N, d, random), "y": _codes(M, d, random)}
        for other in ("x", "y"):
            squared = (codes["x"][:, None].to(torch.int64) - codes[other].to(torch.int64)).square().sum(dim=2)
            radius = {"x": _nearest(squared), other: _nearest(squared.T)}
            want = squared <= torch.maximum(radius["x"][:, None], radius[other])
            rows = {
                name: GemmRows.of(codes[name].to(device), radius[name].to(device), shape) for name in radius
            }
            launch = partial(launch_gemm, x=rows["x"], y=rows[other], shape=shape)
            tile = shape.rows, shape.columns
            _compare(f"int8 filter, {d} dimensions", launch, tile, want, device, same=other == "x")


def check_pairs(device: torch.device) -> None:
    """Compare D of single pairs with float64, and with itself in another batch.

    Raises:
        WrongAnswerError: an error above that of summing in float32, or a bit that depends on the batch.
    """
    for d in DIMENSIONS:
        random = torch.Generator().manual_seed(d)
        x, y = torch.randn(N, d, generator=random), torch.randn(M, d, generator=random)
        i = torch.randint(0, N, (1001,), generator=random)
        j = torch.randint(0, M, (1001,), generator=random)
        at_x, at_y = i.to(device, torch.int32), j.to(device, torch.int32)
        on_x, on_y = x.to(device), y.to(device)
        got = pair_distances(on_x, at_x, on_y, at_y, METRIC)
        _close(f"D of pairs, {d} dimensions", got, _distances(x[i], y[j]), d)
        # Another batch, other places in it, other alignment of the rows, and the sides changed.
        moved = torch.cat([on_x.new_zeros(3, d), on_x])[3:]
        again = pair_distances(on_y, at_y[7:].flip(0), moved, at_x[7:].flip(0), METRIC).flip(0)
        if not torch.equal(again, got[7:]):
            raise WrongAnswerError(f"D of pairs, {d} dimensions: bits depend on the batch")


def check_measure(device: torch.device) -> None:
    """Compare D of all pairs with float64.

    Raises:
        WrongAnswerError: an error above that of summing in float32.
    """
    for d in DIMENSIONS:
        random = torch.Generator().manual_seed(d)
        x, y = torch.randn(N, d, generator=random), torch.randn(M, d, generator=random)
        got = measure(x.to(device), y.to(device), METRIC)
        _close(f"D of all pairs, {d} dimensions", got, _distances(x[:, None], y), d)


def check_nearest(device: torch.device) -> None:
    """Compare the nearest of groups of reference rows with integers.

    Raises:
        WrongAnswerError: a distance is wrong, or the place that stands for it is at another one.
    """
    count = 3
    for d in DIMENSIONS:
        random = torch.Generator().manual_seed(d)
        x, y = _codes(N, d, random), _codes(M, d, random)
        ids, reference_ids = 3 * torch.arange(N), 2 * torch.arange(M)
        far = torch.iinfo(torch.int64).max
        squared = (x[:, None].to(torch.int64) - y.to(torch.int64)).square().sum(dim=2)
        squared.masked_fill_(ids[:, None] == reference_ids, far)
        for group in GROUPS:
            groups = -(-M // group)
            nearest = torch.stack([squared[:, g::groups].amin(dim=1) for g in range(groups)], dim=1)
            few = min(count, groups)
            found = nearest_codes(
                x.to(device), y.to(device), ids.to(device), reference_ids.to(device), few, group
            )
            got, places = (each.cpu() for each in found)
            if not torch.equal(got, nearest.sort(dim=1).values[:, :few]):
                raise WrongAnswerError(f"nearest of {M} codes by {group}, {d} dimensions: other distances")
            if not torch.equal(squared.gather(1, places), got):
                raise WrongAnswerError(f"nearest of {M} codes by {group}, {d} dimensions: other places")


CHECKS: tuple[Callable[[torch.device], None], ...] = (
    check_sad,
    check_halves,
    check_gemm,
    check_nearest,
    check_pairs,
    check_measure,
)


def _codes(n: int, d: int, random: torch.Generator) -> Tensor:
    return torch.randint(0, 256, (n, d), dtype=torch.uint8, generator=random)


def _on(device: torch.device, *values: Tensor) -> list[Tensor]:
    return [each.to(device, torch.int32) for each in values]


def _nearest(values: Tensor) -> Tensor:
    """Return (N,) what some 5 to 20 of each row's values are below, at least 0: more for some rows."""
    ranks = 5 + 15 * (torch.arange(len(values)) % 4 == 0)
    return values.sort(dim=1).values.gather(1, ranks[:, None]).flatten().clamp(min=0)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Return D in float64 along the last dimension."""
    difference = (x.to(torch.float64) - y.to(torch.float64)).abs()
    return (
        METRIC.l1_weight * difference.sum(dim=-1) + METRIC.l2_weight * difference.square().sum(dim=-1).sqrt()
    )


def _close(what: str, got: Tensor, want: Tensor, d: int) -> None:
    error = float(((got.cpu().to(torch.float64) - want) / want).abs().max())
    # Not `error > ...`: NaN must not pass.
    if not error <= (d + 8) * 2.0**-23:
        raise WrongAnswerError(f"{what}: relative error {error:.1e}")


def _compare(
    what: str,
    launch: Callable[[Tensor, Survivors], None],
    tile: tuple[int, int],
    want: Tensor,
    device: torch.device,
    *,
    same: bool,
) -> None:
    """Run a filter over ranges of rows and compare its pairs with the mask `want` (N, M)."""
    ranges = ONE_BLOCK if same else TWO_BLOCKS
    listed = torch.zeros_like(want)
    for x_begin, x_end, y_begin, y_end in ranges.tolist():
        part = torch.ones(x_end - x_begin, y_end - y_begin, dtype=torch.bool)
        equal = same and x_begin == y_begin
        listed[x_begin:x_end, y_begin:y_end] = part.triu(diagonal=1) if equal else part
    expected = (want & listed).flatten().nonzero().flatten()
    tiles = TileList.cut(ranges, tile, same=same, device=device)
    survivors = Survivors.empty(N * N, device)
    launch(tiles.rows(0, tiles.total), survivors)
    i, j = survivors.pairs(min(survivors.found(), survivors.capacity))
    found = (i.to(torch.int64) * want.shape[1] + j).cpu().sort().values
    if not torch.equal(found, expected):
        raise WrongAnswerError(f"{what}: {len(found)} pairs found, {len(expected)} expected")
