# SPDX-License-Identifier: Apache-2.0
"""Pipelines: registers that have names, and values as they were when they passed an earlier one."""

from amaranth.hdl import Module, Signal


class Stages(tuple[str, ...]):
    """The registers of a pipeline in order, by name; there are as many as its latency has cycles.

    `stages.after(name)`: cycles from the input to a value that stands in the register `name`, 1 for the first.
    """

    def __new__(cls, *names: str) -> "Stages":
        if len(set(names)) != len(names):
            raise ValueError(f"two stages of one name among {', '.join(names)}")
        return super().__new__(cls, names)

    def after(self, name: str) -> int:
        return self.index(name) + 1


def delay(m: Module, value, cycles: int, *, name: str = "delay", reset_less: bool = True):
    """`value` as it was `cycles` clock cycles ago, of the same shape (a `lib.data` view stays one). 0 cycles returns it
    as it is.

    Registers are without reset: pass `reset_less=False` for valids.
    """
    for stage in range(cycles):
        register = Signal(value.shape(), name=f"{name}_{stage}", reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value


def chain(m: Module, value, cycles: int, *, name: str, reset_less: bool = True) -> list:
    """[value, value one cycle ago, ... , `cycles` cycles ago]:
    what travels beside a pipeline, at each of its stages.
    """
    values = [value]
    for stage in range(1, cycles + 1):
        register = Signal(value.shape(), name=f"{name}_{stage}", reset_less=reset_less)
        m.d.sync += register.eq(values[-1])
        values.append(register)
    return values


def behind_memory(m: Module, value, *, name: str):
    """`value`, which comes out of block RAM, a cycle later, in a register that no tool takes into the DSP slice behind
    it (the attribute `keep`): block RAM answers so late that there it would be too late for the slice's set-up.
    """
    register = Signal(value.shape(), name=name, reset_less=True, attrs={"keep": 1})
    m.d.sync += register.eq(value)
    return register


__all__ = ["Stages", "behind_memory", "chain", "delay"]
