# SPDX-License-Identifier: Apache-2.0
"""Router and its queues against the twin and PyTorch's stable sort:
ties, order, counts, appended streams, cycle counts.
"""

import cocotb
import numpy as np
import pytest
from bench_nonlinear import GAPS, Bench, config_of, padded, vector
from edgemoe.hw.compute.expert_queues import ExpertQueues, entry_layout
from edgemoe.hw.compute.router import Router
from edgemoe.models.numbers.twins import route
from edgemoe.sim.bench import pack, parameters, run_bench, unpack

LOGITS = {
    "any": lambda random, shape: random.integers(-32768, 32768, shape),
    "ties": lambda random, shape: random.integers(-2, 3, shape),
    "equal": lambda random, shape: np.full(shape, -5),
    "extremes": lambda random, shape: random.choice([-32768, 32767], shape),
    "one expert": lambda random, shape: np.tile(np.arange(shape[1]) * 300, (shape[0], 1)),
}


def choices(logits: np.ndarray, top_k: int, shift: int, among: int) -> tuple[np.ndarray, np.ndarray]:
    """(expert, score) of each row's choices, [rows, top_k]."""
    import torch

    order, scores = route(logits, shift, top_k, among)
    assert (
        order == torch.from_numpy(logits).sort(dim=1, descending=True, stable=True).indices[:, :top_k].numpy()
    ).all()
    softmax = torch.softmax(torch.from_numpy(logits * 2.0 ** (shift - 12) * np.log(2)), 1).numpy()
    wanted = np.take_along_axis(softmax, order, 1)
    wanted = wanted / wanted.sum(axis=1, keepdims=True) if among else wanted
    assert np.abs(scores / 2**15 - wanted).max() < 2e-4
    return order, scores


class Routing:
    def __init__(self, dut, unit: Router):
        self.bench, self.unit, self.config = Bench(dut), unit, unit.config
        self.queues: list[list[tuple[int, int]]] = [[] for _ in range(unit.config.experts)]

    async def route(
        self, logits: np.ndarray, row_base: int, top_k: int, shift: int, reset: bool, among: int = 0
    ) -> None:
        rows, experts = logits.shape
        random = np.random.default_rng(rows)
        blocks = padded(logits, self.config.lanes)
        blocks.reshape(rows, -1)[:, experts:] = 32767  # lanes behind the last expert do not count
        columns = blocks.shape[1]
        stride, base = columns + int(random.integers(0, 3)), int(random.integers(0, 1000))
        memory = {base + i * stride + c: vector(blocks[i, c], 16) for i in range(rows) for c in range(columns)}
        if reset:
            self.queues = [[] for _ in self.queues]
        order, scores = choices(logits, top_k, shift, among)
        for k in range(top_k):
            for i in range(rows):
                self.queues[order[i, k]].append((row_base + i, int(scores[i, k])))
        bench, cycles = self.bench, 0
        bench.set(
            command_rows=rows,
            command_row_base=row_base,
            command_base=base,
            command_stride=stride,
            command_columns=columns,
            command_experts=experts,
            command_top_k=top_k,
            command_shift=shift,
            command_among_chosen=among,
        )
        bench.set(command_start=1, command_reset_queues=reset)
        address = before = 0
        while not bench.get("command_done"):
            address, before = bench.get("logits_address"), address
            await bench.step()
            bench.set(command_start=0, command_reset_queues=0, logits_data=memory.get(before, 0))
            cycles += 1
            assert cycles < 10000
        assert (
            cycles
            == (1 + among) * top_k * max(rows * columns, columns + self.unit.TURN) + rows * columns + self.unit.DRAIN
        )
        await self.check()

    async def check(self) -> None:
        """Every queue, entry by entry, and the walk over the non-empty ones."""
        bench = self.bench
        for expert, queue in enumerate(self.queues):
            bench.set(query_count_expert=expert)
            for index, entry in enumerate(queue):
                bench.set(entry_expert=expert, entry_index=index)
                await bench.step(1 + ExpertQueues.ENTRY_LATENCY)
                assert (bench.get("entry_row"), bench.get("entry_score")) == entry, f"expert {expert}, entry {index}"
            await bench.step()
            assert bench.get("query_count") == len(queue), f"count of expert {expert}"
        for start in range(len(self.queues) + 1):
            bench.set(query_next_from=start)
            await bench.step(ExpertQueues.NEXT_LATENCY)
            following = [e for e in range(start, len(self.queues)) if self.queues[e]]
            assert bench.get("query_next_found") == bool(following)
            assert not following or bench.get("query_next_expert") == following[0]


@cocotb.test()
async def compare(dut):
    given, random = parameters(), np.random.default_rng(9)
    routing = Routing(dut, Router(config_of(given["lanes"])))
    await routing.bench.begin()
    for rows, experts, top_k in given["sizes"]:
        for kind in LOGITS:
            # Two streams into the same queues.
            among = int(random.integers(2))
            await routing.route(
                LOGITS[kind](random, (rows, experts)), 0, top_k, int(random.integers(0, 6)), True, among
            )
            await routing.route(LOGITS["ties"](random, (rows, experts)), rows, top_k, 10, False, 1 - among)
            tokens = [row for queue in routing.queues for row, _ in queue]
            assert sorted(tokens) == sorted(list(range(2 * rows)) * top_k), "no token is lost, none comes twice"


@cocotb.test()
async def queues(dut):
    """Pushes at random, to one expert or many, or until all queues are full;
    an entry is read PUSH_DELAY cycles after its push.
    """
    given = parameters()
    config, bench = config_of(given["lanes"]), Bench(dut, given["gap"])
    layout, random = entry_layout(config), np.random.default_rng(4)
    await bench.begin()
    everywhere = np.repeat(np.arange(config.experts), config.rows)
    for order in (
        np.zeros(config.rows),
        random.integers(0, config.experts, config.rows),
        random.permutation(everywhere),
    ):
        # A push in the cycle of the reset is forgotten like all before it.
        bench.set(reset=1, push=1, push_expert=config.experts - 1, push_entry=0)
        await bench.step()
        bench.set(reset=0, push=0)
        for expert in range(config.experts):
            bench.set(count_expert=expert)
            await bench.step()
            assert bench.get("count") == 0 and not bench.get("next_found"), (
                f"expert {expert} is not empty after a reset"
            )
        expected: list[list[int]] = [[] for _ in range(config.experts)]
        for expert in order.astype(int).tolist():
            entry = pack(
                layout, {"row": int(random.integers(0, config.rows)), "score": int(random.integers(0, 1 << 16))}
            )
            await bench.send("push", push_expert=expert, push_entry=entry)
            expected[expert].append(entry)
        last = (expert, len(expected[expert]) - 1)
        bench.set(push=0)
        await bench.step(ExpertQueues.PUSH_DELAY - 1)
        for expert, index in [last, *((e, n) for e in range(config.experts) for n in range(len(expected[e])))]:
            bench.set(entry_expert=expert, entry_index=index, count_expert=expert)
            await bench.step(1 + ExpertQueues.ENTRY_LATENCY)
            assert bench.get("entry") == expected[expert][index], unpack(layout, bench.get("entry"))
            assert bench.get("count") == len(expected[expert])


# lanes: (rows, experts, top_k); experts that do not fill their words among them
SIZES = {
    4: [(1, 8, 4), (2, 7, 2), (5, 8, 2), (13, 4, 4), (7, 1, 1)],
    16: [(1, 16, 2), (2, 13, 4), (17, 16, 2), (5, 3, 3)],
}


@pytest.mark.parametrize("lanes", list(SIZES))
def test_routes(lanes):
    unit = Router(config_of(lanes))
    run_bench(
        unit, __name__, testcase="compare", parameters={"lanes": lanes, "sizes": SIZES[lanes]}, name=f"router_{lanes}"
    )


@pytest.mark.parametrize("gap", GAPS)
def test_queues(gap):
    run_bench(ExpertQueues(config_of(4)), __name__, testcase="queues", parameters={"lanes": 4, "gap": GAPS[gap]})
