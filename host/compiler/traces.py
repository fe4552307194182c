# SPDX-License-Identifier: Apache-2.0
"""A STORE of every MATMUL's destination, so that two devices can be compared instruction by instruction."""

from __future__ import annotations

from edgemoe.host.compiler.draft import Draft, Lowered, Region
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Opcode
from edgemoe.hw.contract.weight_stream import aligned

KEPT = ("memory", "destination_base", "destination_stride", "columns", "rows")


def add_traces(lowered: Lowered, hardware: HardwareConfig, experts: int) -> None:
    """Behind every MATMUL; inside EXPERTS one copy of the region per expert, of as many rows as a queue may have."""
    drafts: list[Draft] = []
    for draft in lowered.drafts:
        drafts.append(draft)
        if draft.opcode == Opcode.EXPERTS:
            draft.fields["length"] = 2 * _number(draft, "length")
        if draft.opcode != Opcode.MATMUL:
            continue
        size = _number(draft, "rows") * _number(draft, "columns") * hardware.word_bytes
        region = Region(aligned(size) * (experts if draft.body else 1))
        fields = {name: draft.fields[name] for name in KEPT if name in draft.fields}
        fields["beats"] = -(-size // hardware.bus_bytes)
        if draft.body:
            fields |= {"scatter": 1} if draft.fields.get("scatter") else {"queued": 1}
            fields["expert_stride"] = aligned(size)
        lowered.traced.append((draft, region))
        drafts.append(
            Draft(
                Opcode.STORE, f"trace of {draft.label}", fields, draft.key, region, body=draft.body, group=draft.group
            )
        )
    lowered.drafts = drafts


def _number(draft: Draft, name: str) -> int:
    value = draft.fields[name]
    assert isinstance(value, int)
    return value
