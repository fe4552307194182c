// SPDX-License-Identifier: Apache-2.0
//
// The harness around a core that keeps its waveforms: harness.cpp as it is, with a top whose every evaluation can go to an FST file.
// sim/waves.py is the only caller.
//
// A cycle takes 10 ns of the file's time: it begins at 10 n, its inputs and outputs settled, and the clock rises at 10 n + 5. Cycles are kept
// while the number of the instruction at the sequencer lies in a window; between them nothing is written.
//
// Verilator's FST writer compresses with LZ4 and zlib. Their two functions are lent by the caller, so that no headers or libraries need to be
// installed: fst/lz4.h and fst/zlib.h declare them.

#include "Vtop.h"
#include "Vtop___024root.h"
#include "verilated_fst_c.h"

#include <lz4.h>
#include <zlib.h>

#include <cstdint>

namespace {

class RecordedTop : public Vtop {
  public:
    explicit RecordedTop(VerilatedContext* context) : Vtop((context->traceEverOn(true), context), "") {
        waves_.set_time_unit("1ns");
        waves_.set_time_resolution("1ns");
    }

    void eval() {
        Vtop::eval();
        const uint64_t now = 10 * cycle_ + (aclk ? 5 : 0);
        if (waves_.isOpen() && first_ <= at() && at() <= last_) {
            waves_.dump(now);
            kept_ += aclk;
        }
        cycle_ += aclk;
    }
    bool record(const char* path, uint32_t first, uint32_t last) {
        first_ = first;
        last_ = last;
        if (!declared_) trace(&waves_, 99);
        declared_ = true;
        waves_.open(path);
        return waves_.isOpen();
    }
    uint64_t finish() {
        if (waves_.isOpen()) waves_.close();
        return kept_;
    }

  private:
    VerilatedFstC waves_;
    bool declared_ = false;
    uint32_t first_ = 0, last_ = 0;
    uint64_t cycle_ = 0, kept_ = 0;

    uint32_t at() const { return rootp->EDGEMOE_INSTRUCTION; }
};

}  // namespace

#define Vtop RecordedTop
#include "harness.cpp"
#undef Vtop

edgemoe_lz4_function edgemoe_lz4;
edgemoe_zlib_function edgemoe_zlib;

API void edgemoe_waves_compressors(edgemoe_lz4_function lz4, edgemoe_zlib_function zlib) {
    edgemoe_lz4 = lz4;
    edgemoe_zlib = zlib;
}
// Whether the file could be opened.
API int edgemoe_waves_open(Simulation* simulation, const char* path, uint32_t first, uint32_t last) { return simulation->top.record(path, first, last); }
// The cycles that are in the file.
API uint64_t edgemoe_waves_close(Simulation* simulation) { return simulation->top.finish(); }
