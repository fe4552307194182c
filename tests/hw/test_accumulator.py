# SPDX-License-Identifier: Apache-2.0
"""The accumulator memory: exact sums, revisits as early as REVISIT allows, results exactly LATENCY later."""

from typing import Any

import cocotb
import numpy as np
import pytest
from bench_datapath import play, to_bits, to_lanes
from edgemoe.hw.compute.accumulator import Accumulator
from edgemoe.hw.contract.config import preset
from edgemoe.sim.bench import parameters, run_bench


@cocotb.test()
async def blocks(dut: Any) -> None:
    """Column blocks as the streamer sends them: `rows` rows, `chunks` times, the next block at once."""
    lanes, latency, revisit, rows, chunks, gaps, seed = (
        parameters()[name] for name in ("lanes", "latency", "revisit", "rows", "chunks", "gaps", "seed")
    )
    rng = np.random.default_rng(seed)
    period = max(rows, revisit)  # fewer rows than REVISIT: the controller spaces the chunks
    inputs: dict[int, dict[str, int]] = {}
    expected: dict[int, list[int]] = {}
    memory: dict[int, np.ndarray] = {}
    cycle = 0
    for _ in range(3):
        base = int(rng.integers(parameters()["depth"] - rows + 1))
        for chunk in range(chunks):
            begun = cycle
            for row in range(rows):
                if rng.random() < gaps:
                    cycle += int(rng.integers(1, 4))
                sums, bias = rng.integers(-(1 << 46), 1 << 46, lanes), rng.integers(-(1 << 46), 1 << 46, lanes)
                total = sums + (bias if chunk == 0 else memory[base + row])
                memory[base + row] = (total + (1 << 47)) % (1 << 48) - (1 << 47)  # modulo 2^48, as the twin folds
                first, last = chunk == 0, chunk == chunks - 1
                inputs[cycle] = {"row_valid": 1, "row_index": base + row, "row_first": first, "row_last": last}
                inputs[cycle] |= {"sums": to_bits(sums.tolist(), 48), "bias": to_bits(bias.tolist(), 48)}
                if last:
                    expected[cycle + latency] = memory[base + row].tolist()
                cycle += 1
            cycle = max(cycle, begun + period)
            if gaps:
                cycle += revisit  # a gap in the middle may have brought the last rows close to the next chunk's first

    def observe(now: int) -> None:
        assert int(dut.out_valid.value) == (now in expected), f"cycle {now}: out_valid"
        if now in expected:
            assert to_lanes(dut.out_sums.value, lanes, 48) == expected[now], f"cycle {now}"

    await play(dut, cycle + latency + 1, inputs.get, observe)


@pytest.mark.parametrize("gaps", [0.0, 0.3])
@pytest.mark.parametrize(
    "name, rows, chunks", [("tiny", 1, 5), ("tiny", 4, 1), ("tiny", 5, 7), ("tiny", 40, 3), ("base", 129, 3)]
)
def test_blocks(name: str, rows: int, chunks: int, gaps: float) -> None:
    config = preset(name)
    unit = Accumulator(config)
    given = {"lanes": config.lanes, "latency": unit.LATENCY, "revisit": unit.REVISIT, "depth": config.rows}
    run_bench(unit, __name__, parameters=given | {"rows": rows, "chunks": chunks, "gaps": gaps, "seed": 3})
