"""Check the GPU kernels against their references and time them: python -m dm2at_ray.neighbors.gpu.check.

Prints one JSON object: `checks`, each kernel's verdict; `kernels`, its rate for several ways to cut it
(Tpd/s are 10^12 pairs times dimensions a second); `backend`, whole searches of one block with simple limits;
`search`, the public search, everything included. What the time given does not allow is left out and named
in `skipped`. Exit code 2 where there is no GPU, 1 where a kernel is wrong.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable

import torch

Row = dict[str, object]

K = 10
SIZES = (32_768, 262_144, 1_000_000)
DIMENSIONS = 512


def main() -> int:
    """Run all of it and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=240, help="start nothing new that would end later")
    parser.add_argument("--checks-only", action="store_true", help="time nothing")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu.check: torch sees no CUDA GPU on this machine; nothing was checked", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    from dm2at_ray.neighbors.gpu import lang

    if lang.WHY_MISSING:
        print(f"gpu.check: {lang.WHY_MISSING}; nothing was checked", file=sys.stderr)
        return 2
    report: Row = {"machine": _machine(device)}
    checks = _checks(device)
    report["checks"] = checks
    if not options.checks_only:
        _time_all(report, device, time.perf_counter() + options.seconds)
    print(json.dumps(report, indent=1))
    return 0 if all(verdict == "ok" for verdict in checks.values()) else 1


def _machine(device: torch.device) -> Row:
    import triton

    return {
        "gpu": torch.cuda.get_device_name(device),
        "capability": list(torch.cuda.get_device_capability(device)),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }


def _checks(device: torch.device) -> dict[str, str]:
    """Return each check's verdict: ok, or what is wrong."""
    from dm2at_ray.neighbors.gpu.self_check import CHECKS

    verdicts = {}
    for check in CHECKS:
        begin = time.perf_counter()
        _progress(check.__name__)
        try:
            check(device)
            verdicts[check.__name__] = "ok"
        # All kernels are looked at, whatever is wrong with one.
        except Exception as error:
            verdicts[check.__name__] = f"{type(error).__name__}: {error}"
        _progress(f"  {verdicts[check.__name__]} in {time.perf_counter() - begin:.1f} s")
    return verdicts


def _time_all(report: Row, device: torch.device, end: float) -> None:
    from dm2at_ray.neighbors.gpu import timing

    skipped: list[str] = []
    kernels: list[Row] = []
    _collect(kernels, lambda: timing.filters(32_768, DIMENSIONS, device))
    _collect(kernels, lambda: timing.filters(32_768, 64, device))
    _collect(kernels, lambda: timing.distances(262_144, DIMENSIONS, device))
    backend: list[Row] = []
    search: list[Row] = []
    report.update(skipped=skipped, kernels=kernels, backend=backend, search=search)
    for name, rows, work in (
        ("backend", backend, lambda n: timing.searches(n, DIMENSIONS, device)),
        ("search exact", search, lambda n: _public(n, "exact", device)),
        ("search shortlist", search, lambda n: _public(n, "shortlist", device)),
    ):
        took, before = 0.0, SIZES[0]
        for n in SIZES:
            # The work grows with the square of the rows, and what does not was paid for the first time.
            if time.perf_counter() + took * (n / before) ** 2 > end:
                skipped.append(f"{name} at {n} rows")
                break
            begin = time.perf_counter()
            _collect(rows, lambda n=n, work=work: work(n))  # type: ignore[misc]
            took, before = time.perf_counter() - begin, n
            torch.cuda.empty_cache()


def _public(n: int, engine: str, device: torch.device) -> Iterable[Row]:
    """Time `dm2at_ray.neighbors.search` on a matrix on the device, twice: the first call may compile."""
    from dm2at_ray.neighbors import search
    from dm2at_ray.neighbors.gpu.timing import features

    x = features(n, DIMENSIONS, device)
    for attempt in ("first", "second"):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        found = search(x, K, engine=engine)
        torch.cuda.synchronize()
        row: Row = {"engine": engine, "n": n, "d": DIMENSIONS, "k": K, "attempt": attempt}
        yield {**row, "seconds": time.perf_counter() - begin, "returned": type(found).__name__}


def _collect(rows: list[Row], work: Callable[[], Iterable[Row]]) -> None:
    """Append what `work` yields, and its error where it fails half way: the other figures still count."""
    try:
        for row in work():
            rows.append(row)
            _progress(json.dumps(row))
    except Exception as error:
        rows.append({"error": f"{type(error).__name__}: {error}"})
        _progress(f"failed: {error}")


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
