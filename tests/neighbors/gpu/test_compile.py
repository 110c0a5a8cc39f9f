"""The kernels compile for an H100 (sm_90) where there is none, to the machine code they are designed for."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed")
pytest.importorskip("triton.experimental.gluon", reason="this Triton has no Gluon")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.experimental.gluon._runtime import GluonASTSource  # noqa: E402

from dm2at_ray.neighbors.gpu import gemm, halves, measure, nearest, pairs, sad  # noqa: E402

H100 = GPUTarget("cuda", 90, 32)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
INT, FLOAT = "*i32", "*fp32"
BUFFER = {"out_i": INT, "out_j": INT, "counter": INT, "capacity": "i32"}
WEIGHTS = {"l1_weight": "fp32", "l2_weight": "fp32"}


class Compiled(NamedTuple):
    """PTX, registers of a thread, and how often each machine instruction stands in the code."""

    ptx: str
    registers: int
    instructions: Counter[str]

    def count(self, pattern: str) -> int:
        return sum(count for name, count in self.instructions.items() if re.fullmatch(pattern, name))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compiled(
    kernel: Any,
    types: dict[str, str],
    constants: dict[str, Any],
    path: Path,
    odd: tuple[str, ...] = (),
    **options: int,
) -> Compiled:
    """Compile as a launch would: integers and pointers are multiples of 16 but for those named in `odd`."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    aligned = [n for n in names if n not in constants and types[n] != "fp32" and n not in odd]
    source = (GluonASTSource if kernel.is_gluon() else ASTSource)(
        kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    result = triton.compile(source, target=H100, options=options)
    if not CUOBJDUMP.exists():
        pytest.skip(f"compiled, but {CUOBJDUMP} is missing, which reads the machine code")
    cubin = path / "kernel.cubin"
    cubin.write_bytes(result.asm["cubin"])
    usage, code = (
        subprocess.run([CUOBJDUMP, flag, cubin], capture_output=True, text=True, check=True).stdout
        for flag in ("-res-usage", "-sass")
    )
    found = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?([A-Z][\w.]+)", code, re.MULTILINE)
    registers = re.search(r"REG:(\d+)", usage)
    assert registers is not None
    return Compiled(result.asm["ptx"], int(registers[1]), Counter(found))


@pytest.mark.parametrize("shape", [sad.SadShape(), sad.SadShape(unroll=4), sad.SadShape(run=8)], ids=str)
def test_sad__one_instruction_for_four_dimensions_of_a_pair(shape: sad.SadShape, tmp_path: Path) -> None:
    pointers = ("tiles", "x", "y", "x_reach", "x_slack", "y_reach", "y_slack")
    types = {**dict.fromkeys(pointers, INT), "x_stride": "i32", "y_stride": "i32", "words": "i32", **BUFFER}
    constants = {"rows": shape.rows, "columns": shape.columns, "unroll": shape.unroll, "run": shape.run}
    code = compiled(
        sad.sad_kernel, types, {**constants, "same": True}, tmp_path, ("words",),
        num_warps=4, maxnreg=shape.registers,
    )  # fmt: skip
    # 8 x 8 pairs a thread and four 16-byte loads, for each word of the loop.
    assert code.ptx.count("vabsdiff4.u32.u32.u32.add") == 64 * shape.unroll
    assert code.count(r"VABSDIFF4\.U8\.ACC") == 64 * shape.unroll
    assert code.count(r"LDG\.E\.128.*") == 4 * shape.unroll
    # Four blocks of 128 threads share the 65,536 registers of a multiprocessor, none of them spilled.
    assert code.registers <= 128
    assert code.count(r"(STL|LDL).*") <= (4 if shape.unroll > 2 else 0)


def test_gemm__runs_on_int8_tensor_cores(tmp_path: Path) -> None:
    shape = gemm.GemmShape()
    types = dict.fromkeys(("tiles", "x_norms", "x_radius", "y_norms", "y_radius"), INT)
    types = {**types, "x": "*i8", "y": "*i8", "width": "i32", **BUFFER}
    constants = {"rows": shape.rows, "columns": shape.columns, "depth": shape.depth, "same": True}
    code = compiled(
        gemm.gemm_kernel, types, constants, tmp_path,
        num_warps=shape.warps, num_stages=shape.stages, maxnreg=shape.registers,
    )  # fmt: skip
    assert code.count(r"IGMMA.*S8\.S8.*") == shape.depth // 32
    assert code.count(r"LDGSTS.*128.*") > 0
    # Two tiles share a multiprocessor; a few spills around the loop are what that costs.
    assert code.registers <= 128
    assert code.count(r"(STL|LDL).*") < 64


def test_halves__two_instructions_for_two_dimensions_of_a_pair(tmp_path: Path) -> None:
    types = {"tiles": INT, "x": INT, "x_stride": "i32", "y": INT, "y_stride": "i32", "words": "i32", **BUFFER}
    types |= dict.fromkeys(("x_reach", "x_slack", "y_reach", "y_slack"), FLOAT)
    constants = {"rows": halves.ROWS, "columns": halves.COLUMNS, "chain": halves.CHAIN, "same": True}
    code = compiled(halves.halves_kernel, types, constants, tmp_path, num_warps=8, maxnreg=halves.REGISTERS)
    # 8 x 4 pairs a thread and three 16-byte loads, for each word of a chain; a pair's sum is taken out once.
    assert 64 * halves.CHAIN <= code.count(r"HADD2(\.MMA)?|HFMA2(\.MMA)?") <= 66 * halves.CHAIN
    assert code.count(r"HADD2\.F32") == 64
    assert code.count(r"LDG\.E\.128.*") == 3 * halves.CHAIN
    assert code.registers <= 128
    assert code.count(r"(STL|LDL).*") == 0


@pytest.mark.parametrize("group", nearest.GROUPS)
def test_nearest__runs_on_int8_tensor_cores(group: int, tmp_path: Path) -> None:
    shape = nearest.SHAPE
    types = dict.fromkeys(("x_norms", "x_self", "y_norms", "out_squared", "out_places"), INT)
    types |= dict.fromkeys(("x_rows", "y_rows", "groups", "width"), "i32")
    constants = {"rows": shape.rows, "columns": shape.columns, "depth": shape.depth, "group": group}
    code = compiled(
        nearest.nearest_kernel, {**types, "x": "*i8", "y": "*i8"}, constants, tmp_path, ("x_rows", "groups"),
        num_warps=shape.warps, num_stages=shape.stages, maxnreg=shape.registers,
    )  # fmt: skip
    assert code.count(r"IGMMA.*S8\.S8.*") == shape.depth // 32
    assert code.registers <= 128
    assert code.count(r"(STL|LDL).*") < 64


@pytest.mark.parametrize("odd", [(), ("d",)], ids=["aligned", "any dimension"])
def test_pairs__reads_rows_16_bytes_at_a_time_where_it_can(odd: tuple[str, ...], tmp_path: Path) -> None:
    types = {"x": FLOAT, "y": FLOAT, "rows_i": INT, "rows_j": INT, "out": FLOAT, "count": "i32", "d": "i32"}
    constants = {"pairs": pairs.PAIRS, "depth": pairs.DEPTH}
    code = compiled(
        pairs.pairs_kernel, {**types, **WEIGHTS}, constants, tmp_path, ("count", *odd), num_warps=4
    )
    assert code.count(r"LDG\.E\.128.*") == (0 if odd else 8)
    assert code.count(r"(STL|LDL).*") == 0
    # The same additions in the same order, however the rows are aligned.
    assert code.count("FADD") == 96
    assert code.count(r"SHFL\.BFLY") == 40


def test_measure__three_instructions_for_a_dimension_of_a_pair(tmp_path: Path) -> None:
    types = {"x": FLOAT, "y": FLOAT, "out": FLOAT}
    types |= dict.fromkeys(("x_stride", "y_stride", "out_stride", "queries", "rows", "d"), "i32")
    odd = ("out_stride", "queries", "rows", "d")
    code = compiled(
        measure.measure_kernel, {**types, **WEIGHTS}, {"tile": measure.TILE}, tmp_path, odd, num_warps=4
    )
    assert code.count(r"LDG\.E\.128.*") == 3
    assert code.count("FADD") == 2 * 32
    assert code.registers <= 128
    assert code.count(r"(STL|LDL).*") == 0
