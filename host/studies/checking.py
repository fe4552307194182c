# SPDX-License-Identifier: Apache-2.0
"""The three levels of truth side by side: RTL against emulator, to the last bit, and both against the float model, in
decibels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from edgemoe.host.inference import Inference, infer
from edgemoe.host.runtime.driver import Run
from edgemoe.host.runtime.routing import expert_queues, routes_by_token
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Opcode
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.config import ModelConfig
from edgemoe.models.console import show_table
from edgemoe.models.graph import graph
from edgemoe.models.heads import class_logits
from edgemoe.models.keys import Key
from edgemoe.models.numbers.calibrated import seen
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.models.numbers.orthogonal import orthogonal
from edgemoe.models.numbers.quantise import quantise
from edgemoe.models.operations.operation import Context
from edgemoe.models.operations.patch import counted
from edgemoe.sim.recording import Recording
from numpy.typing import NDArray


def sqnr_db(reference: NDArray[Any], value: NDArray[Any]) -> float:
    """10 log10(sum reference^2 / sum (reference - value)^2)."""
    noise = float(np.square(reference - value).sum())
    return 10 * float(np.log10(np.square(reference).sum() / noise)) if noise else float("inf")


def differences(a: Inference, b: Inference) -> tuple[int, int, list[str]]:
    """(instructions compared, instructions that differ, their labels)."""
    compared, labels = 0, []
    for first, second in zip(a.runs, b.runs, strict=True):
        for trace, x, y in zip(first.program.traces, first.traces, second.traces, strict=True):
            compared += 1
            if not np.array_equal(x, y):
                labels.append(trace.label)
        for mine, theirs in zip(first.tokens, second.tokens, strict=True):
            if mine is not None and theirs is not None and not np.array_equal(mine, theirs):
                labels.append("final tokens")
    return compared, len(labels), labels


def against_golden(
    checkpoint: Checkpoint,
    image: NDArray[np.uint8],
    task: int,
    tokens: NDArray[np.float32],
    head: NDArray[np.float32] | None,
    residuals: list[NDArray],
    routes: dict[int, NDArray],
) -> dict[str, Any]:
    """SQNR of tokens with the golden model's own routing; with the hardware's of tokens, of the residual after every
    operation of the trunk, and of what the task's head gives: values, logits or features.
    """
    import torch
    from edgemoe.models.golden import Golden

    golden = Golden(checkpoint).double().eval()
    batch = torch.tensor(image[None])
    with torch.no_grad():
        free = golden(batch, task)
        held = golden(
            batch, task, routing={layer: torch.from_numpy(r[None]) for layer, r in routes.items()}, trace=True
        )
    different = sum(
        int((np.sort(free.routing[layer][0].numpy(), -1) != np.sort(r, -1)).any(-1).sum())
        for layer, r in routes.items()
    )
    assert held.embedded is not None
    halves = [x for layer in zip(held.attended, held.layers, strict=True) for x in layer]
    before = [] if held.normalised is None else [held.normalised]
    exact = [x[0].numpy() for x in (held.embedded, *before, *halves, *([] if held.head is None else [held.head]))]
    exact[0] = counted(checkpoint.config, exact[0])
    return {
        "sqnr_db": sqnr_db(free.tokens[0].numpy(), tokens),
        "sqnr_db_routed": sqnr_db(held.tokens[0].numpy(), tokens),
        "sqnr_db_after": operations_db(checkpoint, image, task, exact, residuals, head, routes),
        "routes_different": different,
        "routes": sum(len(r) for r in routes.values()),
    }


def operations_db(
    checkpoint: Checkpoint,
    image: NDArray[np.uint8],
    task: int,
    exact: Sequence[NDArray],
    residuals: Sequence[NDArray],
    head: NDArray[np.float32] | None,
    routes: Mapping[int, NDArray],
) -> list[tuple[float, float]]:
    """(SQNR, SQNR of its own error alone) of what every operation of the trunk and the head give.

    An operation's own error: against what it would give, in floating point, of what the hardware had before it.
    """
    config, model, chosen = checkpoint.config, graph(checkpoint.config), checkpoint.config.tasks[task]
    tensors = {name: tensor.astype(np.float64) for name, tensor in checkpoint.tensors.items()}
    context = Context(tensors, task, np.float64, routing={layer: r[None] for layer, r in routes.items()})
    before: list[NDArray] = [image, *residuals]
    own = [operation.forward(x[None], context)[0] for operation, x in zip(model.trunk, before, strict=False)]
    found = list(residuals)
    if operation := model.heads.get(chosen.name):
        own.append(operation.forward(residuals[-1][None], context)[0])
    elif host_head := model.host_heads.get(chosen.name):
        own.append(host_head.forward(residuals[-1][None], tensors)[0])
        head = host_head.forward(residuals[-1][None].astype(np.float32), checkpoint.tensors)[0]
    if len(own) > len(found):
        assert head is not None
        found.append(head)
        if chosen.kind == "classification":
            exact, own, found = (
                [*given[:-1], class_logits(given[-1], config, chosen)] for given in (exact, own, found)
            )
    return [(sqnr_db(e, f), sqnr_db(o, f)) for e, o, f in zip(exact, own, found, strict=True)]


def trunk_residuals(run: Run, config: ModelConfig, exponents: Mapping[Key, int]) -> list[NDArray[np.floating]]:
    """The residual after each operation of the trunk, [slots * tokens, width], from the traces of its last matrix."""
    program = run.program
    words = program.hardware.words(config.width) * program.hardware.lanes
    slots = max(program.slots) + 1
    rows = np.zeros((slots, config.tokens, words), np.int64)
    flat = rows.reshape(-1, words)
    # Streams of one image share its leader's rows until they part.
    leaders: dict[int, int] = {}
    for stream, slot in zip(program.streams, program.slots, strict=True):
        leaders.setdefault(stream.image, slot)
    queues = {one.instruction: one.members for one in expert_queues(program, run.routes)}
    loops = np.maximum.accumulate(
        [index if i.opcode == Opcode.EXPERTS else -1 for index, i in enumerate(program.instructions)]
    )
    result: list[NDArray[np.floating]] = []
    for operation in graph(config).trunk:
        written = np.zeros(slots, bool)
        for trace, data in zip(run.program.traces, run.traces, strict=True):
            if trace.key != operation.matrices()[-1].key:
                continue
            i, piece = program.instructions[trace.instruction], data.view("<i2")
            if operation.routed:
                members_of = queues[int(loops[trace.instruction])]
                for copy, members in zip(piece.reshape(config.experts, -1), members_of, strict=True):
                    flat[members] = copy[: len(members) * words].reshape(-1, words)  # padding follows
                written[:] = True
            else:
                first = program.origins[trace.instruction] + i.row_base
                flat[first : first + i.rows] = piece[: i.rows * words].reshape(-1, words)
                written[first // config.tokens : -(-(first + i.rows) // config.tokens)] = True
        for stream, slot in zip(program.streams, program.slots, strict=True):
            if not written[slot]:
                rows[slot] = rows[leaders[stream.image]]
        result.append(flat[:, : config.width] * 2.0 ** -exponents[operation.result])
    return result


@dataclass(frozen=True)
class LayerAccuracy:
    """Decibels after an operation, routing held: of all that came together up to there, and of its own error alone.

    layer: None of the embedding and of heads.
    """

    layer: int | None
    kind: str
    db: float
    own_db: float

    @property
    def title(self) -> str:
        """As people call the operation."""
        return self.kind if self.layer is None else f"layer {self.layer} {self.kind}"


@dataclass(frozen=True)
class Accuracy:
    """Against the float model, by the name of the task: decibels of the final tokens with its own routing, and with the
    hardware's held; those of every layer; routes that differ, of how many.

    layers: the worst task's decibels after every operation, with the heads at the end. worst: that whose own error is
    largest.
    """

    sqnr_db: dict[str, float]
    sqnr_db_routed: dict[str, float]
    sqnr_db_layers: dict[str, list[float]]
    routes_different: dict[str, int]
    routes: dict[str, int]
    layers: list[LayerAccuracy]
    worst: LayerAccuracy


@dataclass(frozen=True)
class Check:
    """What a comparison found. calibrated_on: those of the pictures that calibration has seen, None if the checkpoint
    does not tell.
    """

    checkpoint: str
    hardware: str
    weight_bits: WeightFormat
    images: int
    pictures: list[str]
    calibrated_on: list[str] | None
    mismatches: int
    mismatching: list[str]
    instructions: int
    cycles: int
    accuracy: Accuracy | None

    def summary(self) -> dict[str, Any]:
        """What --json shows."""
        found = asdict(self)
        return found | (found.pop("accuracy") or {})


def check(
    checkpoint: Checkpoint,
    images: Sequence[NDArray[np.uint8]],
    *,
    hardware: HardwareConfig,
    weight_bits: str = WeightFormat.SIXTEEN,
    golden: bool = True,
    rtl: bool = True,
    names: Sequence[str] = (),
    recording: Recording | None = None,
    quiet: bool = False,
) -> Check:
    """Every image, all tasks in one pass: RTL = emulator at every MATMUL's destination; emulator against the float
    model.

    Of several images, the worst decibels count. rtl: off, only the comparison with the float model is made. names: of
    the images, for the report, which says which of them calibration has seen (None if the checkpoint does not tell).
    recording: of the first image's RTL. quiet: how the model is cut has been said.
    """
    config = checkpoint.config
    model = quantise(checkpoint, weight_bits)
    compared = mismatches = 0
    labels: list[str] = []
    by_task: dict[str, list[dict[str, Any]]] = {task.name: [] for task in config.tasks}
    cycles = 0
    for image in images:
        options: dict[str, Any] = dict(
            hardware=hardware, weight_bits=weight_bits, save_tokens=True, trace=True, model=model
        )
        emulated = infer(checkpoint, [image], device="emulator", quiet=quiet, **options)
        quiet = True
        if rtl:
            simulated = infer(checkpoint, [image], device="verilator", recording=recording, quiet=quiet, **options)
            recording = None
            n, wrong, where = differences(emulated, simulated)
            compared, mismatches, labels = compared + n, mismatches + wrong, labels + where
            cycles += simulated.total(lambda r: r.cycles)
        if not golden:
            continue
        place = 0
        for run in emulated.runs:
            routes = routes_by_token(run.program, run.routes)
            residuals = trunk_residuals(run, config, model.exponents)
            if model.back:
                residuals = [x @ orthogonal(config.width) for x in residuals]
            for stream, slot in zip(run.program.streams, run.program.slots, strict=True):
                task = stream.task
                rows = slice(slot * config.tokens, (slot + 1) * config.tokens)
                tokens = emulated.tokens[place]
                assert tokens is not None
                figures = against_golden(
                    checkpoint,
                    image,
                    task,
                    tokens,
                    emulated.heads[place],
                    [x[rows] for x in residuals],
                    {layer: r[rows] for layer, r in routes.items()},
                )
                by_task[config.tasks[task].name].append(figures)
                place += 1
    names = list(names) or [f"image {number}" for number in range(len(images))]
    known = seen(checkpoint.calibration, images)
    return Check(
        checkpoint=config.name,
        hardware=hardware.name,
        weight_bits=model.weight_bits,
        images=len(images),
        pictures=names,
        calibrated_on=None if known is None else [names[index] for index in known],
        mismatches=mismatches,
        mismatching=labels[:20],
        instructions=compared,
        cycles=cycles,
        accuracy=combined(config, by_task) if golden else None,
    )


def combined(config: ModelConfig, by_task: Mapping[str, Sequence[Mapping[str, Any]]]) -> Accuracy:
    """Figures of several pictures as one: the worst decibels count, and all routes."""
    found = {name: figures for name, figures in by_task.items() if figures}

    def of(key: str, combine: Callable[[Iterable[Any]], Any]) -> dict[str, Any]:
        return {name: combine(f[key] for f in figures) for name, figures in found.items()}

    trunk = graph(config).trunk
    # Of every task, operation by operation: the worst of all pictures.
    after = of(
        "sqnr_db_after",
        lambda pictures: [tuple(min(x) for x in zip(*each, strict=True)) for each in zip(*pictures, strict=True)],
    )
    layers = [
        LayerAccuracy(
            operation.result.layer,
            operation.title.removeprefix(f"layer {operation.result.layer} "),
            *(min(figures[place][which] for figures in after.values()) for which in (0, 1)),
        )
        for place, operation in enumerate(trunk)
    ]
    layers += [
        LayerAccuracy(None, f"head {task}", *pair) for task, found in after.items() for pair in found[len(trunk) :]
    ]
    return Accuracy(
        sqnr_db=of("sqnr_db", min),
        sqnr_db_routed=of("sqnr_db_routed", min),
        sqnr_db_layers={task: [db for db, _ in figures[2 : len(trunk) : 2]] for task, figures in after.items()},
        routes_different=of("routes_different", sum),
        routes=of("routes", sum),
        layers=layers,
        worst=min(layers, key=lambda one: one.own_db),
    )


def show(report: Check) -> None:
    """The report on standard output: bits first, then decibels."""
    rows = [("pictures", ", ".join(report.pictures)), ("weights", report.weight_bits.label)]
    if report.instructions:
        equal = report.instructions - report.mismatches
        rows += [
            ("RTL against emulator", f"{equal} of {report.instructions} products bit-exact"),
            ("cycles", f"{report.cycles:,}, storing every product included"),
        ]
    rows += [("differs in", label) for label in report.mismatching]
    show_table(f"{report.checkpoint} on {report.hardware}", rows)
    if accuracy := report.accuracy:
        shown = [
            (
                task,
                f"{accuracy.sqnr_db_routed[task]:.1f} dB",
                f"{accuracy.sqnr_db[task]:.1f} dB",
                f"{accuracy.routes_different[task]:,} of {accuracy.routes[task]:,}",
            )
            for task in accuracy.sqnr_db
        ]
        show_table(
            "Against the float model, final tokens", shown, ("task", "routing held", "raw", "routes that differ")
        )
        parts = [(one.title, f"{one.db:.1f} dB", f"{one.own_db:.1f} dB") for one in accuracy.layers]
        show_table("Left after each part, routing held", parts, ("part", "all so far", "its own error alone"))
        worst = accuracy.worst
        print(f"quantisation loses most in {worst.title}: {worst.own_db:.1f} dB alone, {worst.db:.1f} after it")


def accuracy_table(reports: Sequence[Check]) -> str:
    """Reports of several weight formats as a Markdown table:
    decibels of the tasks, and what the routers did otherwise.
    """
    measured = [(r, r.accuracy) for r in reports if r.accuracy]
    tasks = list(measured[0][1].sqnr_db)
    routes = next(iter(measured[0][1].routes.values()))
    each = " / ".join(tasks)
    titles = (
        "weights",
        f"dB, routing held, {each}",
        f"dB, raw, {each}",
        f"routes different of {routes}",
        "instructions not equal to RTL",
    )
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for r, accuracy in measured:
        cells = [r.weight_bits.label]
        cells += [
            " / ".join(f"{found[task]:.1f}" for task in tasks) for found in (accuracy.sqnr_db_routed, accuracy.sqnr_db)
        ]
        cells += [" / ".join(str(accuracy.routes_different[task]) for task in tasks)]
        cells += [f"{r.mismatches} of {r.instructions}" if r.instructions else "not compared"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
