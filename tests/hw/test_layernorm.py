# SPDX-License-Identifier: Apache-2.0
"""LayerNorm's statistics and 1/sigma against its twin, and against PyTorch's variance."""

from dataclasses import replace

import cocotb
import numpy as np
import pytest
from bench_nonlinear import GAPS, Bench, config_of, padded, vector
from edgemoe.hw.compute.layernorm import LayerNorm
from edgemoe.hw.contract.config import preset
from edgemoe.models.numbers.arithmetic import rsqrt
from edgemoe.models.numbers.twins import layernorm_scale
from edgemoe.sim.bench import parameters, run_bench


class Rows:
    def __init__(self, dut, unit: LayerNorm, gap: float):
        self.bench, self.unit, self.config = Bench(dut, gap), unit, unit.config

    async def write(self, row: int, new, old, *, first: bool = False, subtract_old: bool = False) -> None:
        await self.bench.send(
            "statistics_valid",
            (row, self.unit.REVISIT),
            statistics_row=row,
            statistics_new=vector(new, 16),
            statistics_old=vector(old, 16),
            statistics_first=first,
            statistics_subtract_old=subtract_old,
        )

    async def sweep(self, rows: int, row_base: int, elements: int, epsilon: int, uncentred: int = 0, of_heads: int = 0):
        """LAYERNORM as early as allowed -> mantissas, exponents; the cycle count is what the attribute says."""
        bench = self.bench
        bench.set(statistics_valid=0)
        await bench.step(self.unit.STATISTICS_DELAY - 1)
        command = {"rows": rows, "row_base": row_base, "elements": elements, "epsilon": epsilon}
        bench.set(command_start=1, command_uncentred=uncentred, **{f"command_{n}": v for n, v in command.items()})
        if self.config.head_norms:
            bench.set(command_of_heads=of_heads)
        await bench.step()
        bench.set(command_start=0, command_uncentred=1 - uncentred, **{f"command_{name}": 0 for name in command})
        if self.config.head_norms:
            bench.set(command_of_heads=1 - of_heads)
        cycles = 1
        while not bench.get("command_done"):
            await bench.step()
            cycles += 1
            assert cycles < 10000
        assert cycles == rows + self.unit.SWEEP_DELAY
        results = await self.scales(rows, row_base, of_heads)
        assert not bench.get("command_done")
        return results

    async def scales(self, rows: int, row_base: int, of_heads: int = 0) -> np.ndarray:
        """Mantissas, exponents, out of the table."""
        results, bench = [], self.bench
        for i in range(rows):
            bench.set(scale_index=row_base + i + of_heads * self.config.scale_rows // 2)
            await bench.step()
            results.append((bench.get("scale_mantissa"), bench.get("scale_exponent")))
        return np.array(results).T


@cocotb.test()
async def compare(dut):
    given, random = parameters(), np.random.default_rng(2)
    rows = Rows(dut, LayerNorm(config_of(given["lanes"])), given["gap"])
    await rows.bench.begin()
    width, lanes = rows.config.width, rows.config.lanes
    for count, elements, row_major, kind in given["sizes"]:
        base = int(random.integers(0, rows.config.rows - count + 1))
        x = {
            "any": random.integers(-32768, 32768, (count, elements)),
            "lowest": np.full((count, elements), -32768),
            "constant": np.full((count, elements), 77),
            "zero": np.zeros((count, elements), np.int64),
        }[kind]
        blocks = padded(x, lanes)
        places = [(i, c) for c in range(blocks.shape[1]) for i in range(count)]
        for i, c in sorted(places) if row_major else places:
            # `old` must not count in a dense write
            await rows.write(base + i, blocks[i, c], random.integers(-32768, 32768, lanes), first=c == 0)
        epsilon = 0 if kind != "any" else int(random.integers(0, 1 << 48))
        await check(rows, x, base, epsilon)
        if kind != "any":
            continue
        for n in range(4 * count):
            i, c = (int(random.integers(0, n_)) for n_ in blocks.shape[:2])
            for _ in range(1 + n % 3):  # the same word again, as soon as allowed
                new = np.where(
                    np.arange(c * lanes, (c + 1) * lanes) < elements, random.integers(-32768, 32768, lanes), 0
                )
                await rows.write(base + i, new, blocks[i, c], subtract_old=True)
                blocks[i, c] = new
        await check(rows, blocks.reshape(count, -1)[:, :elements], base, epsilon)
    assert elements <= width


async def check(rows: Rows, x: np.ndarray, base: int, epsilon: int) -> None:
    """LayerNorm's scale, and RMSNorm's, of the same statistics."""
    elements = x.shape[1]
    for uncentred in (0, 1):
        mantissas, exponents = await rows.sweep(len(x), base, elements, epsilon, uncentred)
        mean = 0 if uncentred else x.sum(1) ** 2
        twin = rsqrt(np.maximum(1, elements * (x**2).sum(1) - mean + epsilon))
        assert (mantissas == twin[0]).all() and (exponents == twin[1]).all()
        assert all(
            (a == b).all()
            for a, b in zip(twin, layernorm_scale(x.sum(1), (x**2).sum(1), elements, epsilon, uncentred), strict=True)
        )


@cocotb.test()
async def of_heads(dut):
    """Scales of heads leave the others where they are, and the other way round."""
    random = np.random.default_rng(6)
    rows = Rows(dut, LayerNorm(replace(preset("tiny"), head_norms=1)), 0.0)
    await rows.bench.begin()
    lanes, count = rows.config.lanes, rows.config.rows
    kept = {}
    for turn in range(6):
        x = random.integers(-32768, 32768, (count, lanes))
        for i in range(count):
            await rows.write(i, x[i], x[i], first=True)
        kept[turn % 2] = await rows.sweep(count, 0, lanes, 0, of_heads=turn % 2)
        assert (kept[turn % 2] == layernorm_scale(x.sum(1), (x**2).sum(1), lanes, 0)).all()
        for half, expected in kept.items():
            assert (await rows.scales(count, 0, half) == expected).all()


@cocotb.test()
async def pytorch(dut):
    """1/sigma of residual rows with outliers, as PyTorch's LayerNorm and RMSNorm see it:
    relative error at most 2^-15.
    """
    import torch

    random = np.random.default_rng(4)
    rows = Rows(dut, LayerNorm(config_of(16)), 0.0)
    await rows.bench.begin()
    width, fraction, epsilon = rows.config.width, 9, 1e-6
    x = random.normal(random.uniform(-2, 2, (40, 1)), random.uniform(0.05, 6, (40, 1)), (40, width))
    x[:, 3] = 50
    words = np.round(x * 2**fraction).astype(np.int64).clip(-32768, 32767)
    blocks = padded(words, 16)
    for c in range(blocks.shape[1]):
        for i in range(len(blocks)):
            await rows.write(i, blocks[i, c], blocks[i, c], first=c == 0)
    values = torch.from_numpy(words * 2.0**-fraction)
    mean = values.mean(1, keepdim=True)
    kinds = (
        (values.var(1, correction=0), values - mean, torch.nn.functional.layer_norm(values, (width,), eps=epsilon)),
        (values.square().mean(1), values, torch.nn.functional.rms_norm(values, (width,), eps=epsilon)),
    )
    for uncentred, (square, numerator, normal) in enumerate(kinds):
        mantissas, exponents = await rows.sweep(40, 0, width, round(epsilon * width**2 * 4**fraction), uncentred)
        inverse = width * 2**fraction * mantissas * 2.0 ** -(16 + exponents)
        error = np.abs(inverse / torch.rsqrt(square + epsilon).numpy() - 1).max()
        dut._log.info(f"relative error of 1/sigma: {error:.3g}")
        assert error <= 2.0**-15
        assert (numerator * torch.from_numpy(inverse)[:, None] - normal).abs().max() < 1e-3


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_rows(lanes, gap):
    width = config_of(lanes).width
    sizes = [(1, width, False, "any"), (2, width - 1, False, "any"), (5, lanes, True, "any"), (7, width, True, "any")]
    sizes += [(1, width, True, "lowest"), (3, width, True, "constant"), (2, width, False, "zero")]
    run_bench(
        LayerNorm(config_of(lanes)),
        __name__,
        testcase="compare",
        parameters={"lanes": lanes, "gap": GAPS[gap], "sizes": sizes},
        name=f"layernorm_{lanes}",
    )


def test_scales_of_heads():
    run_bench(
        LayerNorm(replace(preset("tiny"), head_norms=1)), __name__, testcase="of_heads", name="layernorm_of_heads"
    )


def test_against_pytorch():
    run_bench(LayerNorm(config_of(16)), __name__, testcase="pytorch", name="layernorm_16")
