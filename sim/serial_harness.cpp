// SPDX-License-Identifier: Apache-2.0
//
// The serial line of a simulated board, bridged to a file descriptor: bytes that are read from it go to the pin `receive` bit by bit, and
// what the pin `transmit` says is written to it. Built with the Verilated design `serial_board` to a shared library; sim/serial_board.py
// calls it.

#include <cerrno>
#include <cstdint>

#include <poll.h>
#include <unistd.h>

#include "Vtop.h"

namespace {

constexpr int BUFFER = 256;  // what waits here and in the pseudo-terminal must be through before its sender gives up
constexpr int LOOK = 64;  // cycles between looks for bytes to read
constexpr int FRAME_BITS = 10;

enum Kind : uint32_t { NOTHING, FLIP, DROP };

// A deliberate fault of the line: the byte at `at`, and then every `every`-th one (0: none).
struct Fault {
    Kind kind = NOTHING;
    uint64_t at = 0, every = 0, count = 0, done = 0;

    // False: the byte is lost.
    bool apply(uint8_t& byte) {
        if (kind != NOTHING && count == at) {
            at += every;
            done++;
            count++;
            const bool kept = kind != DROP;
            if (!every) kind = NOTHING;
            byte ^= 1u << (done % 8);
            return kept;
        }
        count++;
        return true;
    }
    void set(Kind wanted, uint64_t from, uint64_t step) {
        kind = wanted;
        at = count + from;
        every = step;
    }
};

class Board {
  public:
    uint64_t cycles = 0, received = 0, sent = 0, broken = 0;
    Fault to_board, from_board;
    VerilatedContext context;
    Vtop top{&context};

    Board(int descriptor, unsigned cycles_per_bit) : descriptor_(descriptor), cycles_per_bit_(cycles_per_bit) {
        top.clk = 0;
        top.receive = 1;
        top.rst = 1;
        for (int i = 0; i < 8; i++) cycle();
        top.rst = 0;
    }
    ~Board() { top.final(); }

    void run(uint64_t count) {
        for (uint64_t i = 0; i < count; i++) {
            if (cycles % LOOK == 0 && waiting_ == 0) fill();
            drive();
            cycle();
            watch();
        }
    }

  private:
    int descriptor_;
    unsigned cycles_per_bit_;
    uint8_t buffer_[BUFFER];
    int next_ = 0, waiting_ = 0;
    // To the board.
    unsigned bits_ = 0, left_ = 0;
    uint32_t shift_ = 0;
    // From the board.
    unsigned heard_ = 0, until_sample_ = 0;
    uint32_t collected_ = 0;

    void cycle() {
        top.clk = 1;
        top.chip_clk = 0;
        top.eval();
        top.clk = 0;
        top.chip_clk = 1;
        top.eval();
        cycles++;
    }

    void fill() {
        const ssize_t got = read(descriptor_, buffer_, BUFFER);
        next_ = 0;
        waiting_ = got > 0 ? static_cast<int>(got) : 0;
    }

    void drive() {
        if (left_) {
            left_--;
            return;
        }
        if (bits_ == 0) {
            uint8_t byte;
            do {
                if (waiting_ == 0) return;
                byte = buffer_[next_++];
                waiting_--;
                received++;
            } while (!to_board.apply(byte));
            shift_ = 1u << (FRAME_BITS - 1) | byte << 1;
            bits_ = FRAME_BITS;
        }
        top.receive = shift_ & 1;
        shift_ >>= 1;
        bits_--;
        left_ = cycles_per_bit_ - 1;
    }

    void watch() {
        if (heard_ == 0) {
            if (top.transmit) return;
            heard_ = FRAME_BITS;
            until_sample_ = cycles_per_bit_ / 2;
            collected_ = 0;
        }
        if (until_sample_) {
            until_sample_--;
            return;
        }
        collected_ |= static_cast<uint32_t>(top.transmit) << (FRAME_BITS - heard_);
        until_sample_ = cycles_per_bit_ - 1;
        if (--heard_) return;
        if ((collected_ & 1) || !(collected_ >> (FRAME_BITS - 1))) {
            broken++;
            return;
        }
        uint8_t byte = collected_ >> 1 & 0xFF;
        sent++;
        if (from_board.apply(byte)) put(byte);
    }

    // Time stands still while the other end does not read: its buffer is as long as it likes.
    void put(uint8_t byte) {
        while (write(descriptor_, &byte, 1) != 1) {
            if (errno != EAGAIN && errno != EINTR) return;
            pollfd wait{descriptor_, POLLOUT, 0};
            poll(&wait, 1, 100);
        }
    }
};

struct State {
    uint64_t cycles, received, sent, broken, faults, violations, first_violation, leds;
};

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API Board* board_create(int descriptor, uint32_t cycles_per_bit) { return new Board(descriptor, cycles_per_bit); }
API void board_destroy(Board* board) { delete board; }
API void board_run(Board* board, uint64_t cycles) { board->run(cycles); }
API void board_fault(Board* board, uint32_t from_board, uint32_t kind, uint64_t at, uint64_t every) {
    (from_board ? board->from_board : board->to_board).set(static_cast<Kind>(kind), at, every);
}
API void board_state(Board* board, State* out) {
    *out = {board->cycles, board->received, board->sent, board->broken, board->to_board.done + board->from_board.done,
            board->top.violations, board->top.first_violation, board->top.leds};
}
