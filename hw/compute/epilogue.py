# SPDX-License-Identifier: Apache-2.0
"""From exact 48-bit sums to 16-bit words, N lanes a cycle: row scale, column scale, bias or residual, activation
function.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.accumulator import RowSums
from edgemoe.hw.compute.activation import KIND_BITS, VALUE_BITS, ActivationFunction
from edgemoe.hw.compute.fixed import half_shift, round_half, round_shift, saturate
from edgemoe.hw.compute.gate import Gate
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import ACCUMULATOR_BITS, FINE_BITS, WORD_BITS, HardwareConfig
from edgemoe.hw.contract.isa import Activation
from edgemoe.hw.memory.pipeline import Stages, delay
from edgemoe.models.numbers.words import GATE_FRACTION, SCALE_FRACTION, SCALE_ONE, SMOOTHING_BITS


class EpilogueControl(data.StructLayout):
    """What one row of sums needs: its scale mantissa * 2^-15 * 2^-exponent, its parameter bank, and fields of its
    instruction.
    """

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__(
            {
                "mantissa": 16,
                "exponent": 5,
                "bank": layouts.bank(config),
                "accumulator_shift": signed(7),
                "residual": 1,
                "bias_first": 1,
                "activation": KIND_BITS,
                "residual_shift": 4,
                "output_shift": 4,
                "use_parameters": 1,  # 0: multiplier 2^15 and bias 0 (no parameters in a stream of keys or values)
                **({"raised": 1} if config.packed else {}),
            }
        )


class ParameterLoad(wiring.Signature):
    """A parameter word of the next column block, as its source sees it: 0 low halves of the biases, 1 high halves, 2
    multipliers (unsigned).
    """

    def __init__(self, config: HardwareConfig) -> None:
        bank = layouts.bank(config)
        super().__init__({"valid": Out(1), "bank": Out(bank), "index": Out(2), "data": Out(layouts.word(config))})


class FirstBias(wiring.Signature):
    """The bias that a row of sums starts from (where products are packed: ends with), as who asks for it sees it: that
    of `bank` << `shift`, or 0 without `enable`.
    """

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__({"bank": Out(layouts.bank(config)), "shift": Out(5), "enable": Out(1)})


class FinishedWord(wiring.Signature):
    """A finished word of a row, as the epilogue sees it; `old` is the residual's word that it replaces, or what was
    gated, `copy` what goes to activation memory where products are packed.
    """

    def __init__(self, config: HardwareConfig) -> None:
        word = layouts.word(config)
        copy = {"copy": Out(word)} if config.packed else {}
        super().__init__({"valid": Out(1), "word": Out(word), "old": Out(word), **copy})


class Epilogue(wiring.Component):
    """From sums to words, lane by lane, with (mantissa, exponent) of the row, and (multiplier, bias) of the column from
    the parameter bank of the row:

        a = sat27(round_shift(sums, max(0, accumulator_shift + exponent)))
        b = sat27(round_shift(a * mantissa, 15))
        m = sat27(round_shift(b * multiplier, 15))
        w = m + (residual ? old << residual_shift : bias_first ? 0 : bias)
        out.word = sat16(round_shift(activation(w), output_shift))

    With GATED, in a build that has it, y = bits 14 to 29 of sums stand in the place of `old`, and a Gate beside w and
    what follows makes out.word of y and m.

    What meets where (a stage is a register; beside it stand the values of its row that the next stage needs):

    ================  =====================================================  ==========================
    stage             value of a lane                                        beside it, for the next
    ================  =====================================================  ==========================
    amount            accumulator_shift + exponent within 0..63              sums
    coarse            2 sums >> amount, by its upper bits                    amount's lower bits
    fine              ... and by its lower bits
    limited           28 bits, one of them for rounding
    a                 rounded, 27 bits                                       mantissa
    row product       a * mantissa
    row rounded       / 2^15                                                 bank, use_parameters
    b                 27 bits                                                multiplier
    column product    b * multiplier                                         old, residual_shift, bank
    column rounded    / 2^15                                                 residual, bias, old shifted
    m                 27 bits                                                addend
    w                 m + addend                                             activation
    activation 1..6   f(w) or w                                              output_shift
    narrow            2 w >> output_shift
    close             17 bits, one of them for rounding
    word              16 bits
    ================  =====================================================  ==========================

    Ports:
        row (in RowSums): one row of sums,
        old (in): its residual's word,
        control (in): and what else is its own: all travel down the pipeline together, so rows may differ in everything.
        out (out FinishedWord): LATENCY cycles later; its `old` is the row's.
        parameter (in ParameterLoad): writes one parameter word of a bank; index 3 (padding of the weight stream) is
            ignored. A word counts for rows of the next cycle on, and may be written from PARAMETER_HOLD cycles after
            the last row that needs its old value was presented.
        first (in FirstBias): whose biases an Accumulator adds to a first chunk.
        first_bias (out): they, or 0 without `enable`.
    Latency: LATENCY = 21 cycles from row to out, a register for each of the STAGES; FIRST_LATENCY = 1 cycle from first
        to first_bias; PARAMETER_HOLD = 9 cycles.
    Interval: INTERVAL = 1 cycle between rows.
    Format: sums 48 bit; a, b, m 27 bit; mantissa and multiplier unsigned 16 bit, 2^15 = 1; w 32 bit (no overflow
        possible); first_bias modulo 2^48.
    Limits: biases of 27 bits (the upper bits of their high halves are ignored, but where products are packed: the
        three above the bias are the column's `smoothing`, and out.copy = round_shift(out.word, smoothing), for which
        LATENCY is one more).
    Twin: `models.numbers.twins.epilogue`.
    """

    STAGES = Stages(
        *("amount", "coarse", "fine", "limited", "a"),
        *("row product", "row rounded", "b", "column product", "column rounded", "m"),
        *("w", *(f"activation {i}" for i in range(1, ActivationFunction.LATENCY + 1))),
        *("narrow", "close", "word"),
    )
    LATENCY = len(STAGES)
    INTERVAL = 1
    FIRST_LATENCY = 1
    PARAMETER_HOLD = STAGES.after("column product")  # biases are read last

    def __init__(self, config: HardwareConfig):
        self.config = config
        self.LATENCY = len(self.STAGES) + config.packed
        super().__init__(
            {
                "row": In(RowSums(config)),
                "old": In(layouts.word(config)),
                "control": In(EpilogueControl(config)),
                "parameter": In(ParameterLoad(config)),
                "first": In(FirstBias(config)),
                "first_bias": Out(layouts.sums(config)),
                "out": Out(FinishedWord(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.activation = activation = ActivationFunction(self.config)
        control = self.control
        biases, multipliers, smoothings = self.parameters(m)

        old = self.gated_or_old() if self.config.gates else self.old

        def beside(stage: str, name: str):
            """This input as it was when its row entered: beside the row's value in the register `stage`."""
            value = {"sums": self.row.sums, "old": old}.get(name)
            return delay(m, control[name] if value is None else value, self.STAGES.after(stage), name=name)

        # Values of the whole row, beside the stages that need them.
        shift = control.accumulator_shift + control.exponent
        # beyond 48 the result is 0
        amount = self.register(m, "amount", 6, Mux(shift < 0, 0, Mux(shift > 63, 63, shift)))
        fine_amount = delay(m, amount[:3], 1, name="fine_amount")
        mantissa = beside("a", "mantissa")
        bank = beside("row rounded", "bank")
        multiplier = Mux(
            beside("row rounded", "use_parameters"),
            self.of_bank(bank, multipliers),
            Cat([Const(SCALE_ONE, 16)] * self.config.lanes),
        )
        multiplier = self.register(m, "multiplier", data.ArrayLayout(16, self.config.lanes), multiplier)
        with_bias = beside("column product", "use_parameters") & ~beside("column product", "bias_first")
        bias = Mux(with_bias, self.of_bank(delay(m, bank, 2, name="bank_late"), biases), 0)
        bias = self.register(m, "bias", data.ArrayLayout(signed(FINE_BITS), self.config.lanes), bias)
        if self.config.packed:
            late = delay(m, bank, 2, name="bank_smoothing")
            smoothing = Mux(beside("column product", "use_parameters"), self.of_bank(late, smoothings), 0)
            smoothing = delay(m, smoothing, len(self.STAGES) - self.STAGES.after("column product"), name="smoothing")
        residual = beside("column rounded", "residual")
        residual_shift, old = beside("column product", "residual_shift"), beside("column product", "old")
        gate, gated = self.gate(m, old) if self.config.gates else (None, 0)
        output_shift = beside(f"activation {ActivationFunction.LATENCY}", "output_shift")

        m.d.comb += activation.kind.eq(beside("w", "activation"))
        if self.config.packed:
            m.d.comb += activation.raised.eq(beside("w", "raised"))
        sums = beside("amount", "sums")
        for lane in range(self.config.lanes):

            def register(name: str, shape, value, lane: int = lane) -> Signal:
                return self.register(m, f"{name}_{lane}", shape, value)

            # The barrel shift in two halves, then the limit that leaves one bit for rounding: saturating there changes
            # no result.
            coarse = register(
                "coarse", signed(ACCUMULATOR_BITS + 1), half_shift(sums[lane], Cat(Const(0, 3), amount[3:]))
            )
            fine = register("fine", signed(ACCUMULATOR_BITS + 1), coarse >> fine_amount)
            limited = register("limited", signed(FINE_BITS + 1), saturate(fine, FINE_BITS + 1))
            a = register("a", signed(FINE_BITS), saturate(round_half(limited), FINE_BITS))

            b = self.scale(m, f"row_{lane}", a, mantissa)
            scaled = self.scale(m, f"column_{lane}", b, multiplier[lane])
            old_shifted = register("old_shifted", signed(WORD_BITS + 15), old[lane] << residual_shift)
            addend = register("addend", signed(WORD_BITS + 15), Mux(residual, old_shifted, bias[lane]))
            m.d.comb += activation.value[lane].eq(register("w", signed(VALUE_BITS), scaled + addend))

            if gate is not None:
                m.d.comb += gate.value[lane].eq(scaled)
            narrow = register("narrow", signed(VALUE_BITS + 1), half_shift(activation.result[lane], output_shift))
            close = register("close", signed(WORD_BITS + 1), saturate(narrow, WORD_BITS + 1))
            word = saturate(round_half(close), WORD_BITS)
            word = word if gate is None else Mux(gated, gate.word[lane], word)
            if not self.config.packed:
                m.d.sync += self.out.word[lane].eq(word)
                continue
            word = register("word", signed(WORD_BITS), word)
            shift = smoothing.word_select(lane, SMOOTHING_BITS)
            m.d.sync += [self.out.word[lane].eq(word), self.out.copy[lane].eq(round_shift(word, shift))]

        m.d.comb += [
            self.out.valid.eq(delay(m, self.row.valid, self.LATENCY, name="valid", reset_less=False)),
            self.out.old.eq(delay(m, old, self.LATENCY - self.STAGES.after("column product"), name="old_late")),
        ]
        return m

    def gated_or_old(self) -> data.View:
        """The residual's word, or of a row that is gated the numbers that have been streamed."""
        sums = (self.row.sums[lane] for lane in range(self.config.lanes))
        streamed = Cat(lane[GATE_FRACTION : GATE_FRACTION + WORD_BITS] for lane in sums)
        gated = self.control.activation == Activation.GATED
        return layouts.word(self.config)(Mux(gated, streamed, self.old.as_value()))

    def gate(self, m: Module, old: Value) -> tuple[Gate, Value]:
        """The gate of numbers beside the stage `column product`, and whether its word is the row's, beside `close`."""
        m.submodules.gate = gate = Gate(self.config.lanes)
        gated = self.control.activation == Activation.GATED
        valid = self.row.valid & gated
        m.d.comb += [
            gate.valid.eq(delay(m, valid, self.STAGES.after("m"), name="gate_valid", reset_less=False)),
            gate.number.eq(delay(m, old, self.STAGES.after("m") - self.STAGES.after("column product"), name="number")),
        ]
        return gate, delay(m, gated, self.STAGES.after("close"), name="gated")

    @staticmethod
    def register(m: Module, name: str, shape, value) -> Signal:
        signal = Signal(shape, name=name, reset_less=True)
        m.d.sync += signal.eq(value)
        return signal

    @staticmethod
    def of_bank(bank: Value, values: list[Value]) -> Value:
        """That of a bank among those of all, the last one first."""
        if len(values) == 2:
            return Mux(bank, *values)
        return Mux(bank[1], Mux(bank[0], values[0], values[1]), Mux(bank[0], values[2], values[3]))

    def scale(self, m: Module, name: str, value: Value, factor: Value) -> Signal:
        """sat27(round_shift(value * factor, 15)) in three stages:
        product, rounding (both inside a DSP slice), saturation.
        """
        product = self.register(m, f"{name}_product", signed(FINE_BITS + 17), value * factor)
        rounded = self.register(m, f"{name}_rounded", signed(FINE_BITS + 2), round_shift(product, SCALE_FRACTION))
        return self.register(m, f"{name}_scaled", signed(FINE_BITS), saturate(rounded, FINE_BITS))

    def parameters(self, m: Module) -> tuple[list[Value], list[Value], list[Value]]:
        """The parameter registers and the first bias. Returns the biases, the multipliers and what else stands in the
        biases' words of the banks, the last one first.
        """
        lanes = self.config.lanes
        biases, multipliers, smoothings = [], [], []
        for bank in (3, 2, 1, 0) if self.config.packed else (1, 0):
            names = [f"{name}_{bank}" for name in ("low", "high", "multiplier")]
            low, high, multiplier = (Signal(lanes * WORD_BITS, name=name, reset_less=True) for name in names)
            for index, word in enumerate((low, high, multiplier)):
                with m.If(self.parameter.valid & (self.parameter.bank == bank) & (self.parameter.index == index)):
                    m.d.sync += word.eq(self.parameter.data)
            halves = (
                (low.word_select(k, WORD_BITS), high.word_select(k, WORD_BITS)[: FINE_BITS - WORD_BITS])
                for k in range(lanes)
            )
            biases.append(Cat(*halves))
            multipliers.append(multiplier)
            above = FINE_BITS - WORD_BITS
            smoothings.append(Cat(high.word_select(k, WORD_BITS)[above : above + SMOOTHING_BITS] for k in range(lanes)))

        first = Mux(self.first.enable, self.of_bank(self.first.bank, biases), 0)
        for lane in range(lanes):
            m.d.sync += self.first_bias[lane].eq(first.word_select(lane, FINE_BITS).as_signed() << self.first.shift)
        return biases, multipliers, smoothings
