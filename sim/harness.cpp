// SPDX-License-Identifier: Apache-2.0
//
// The world around the core, for a simulation inside the host's process: a clock, an AXI4-Lite master for the registers, and a model of DRAM
// behind each AXI4 master of the core. sim/device.py is the only caller.
//
// The order of one cycle, which keeps every combinational path from input to output legal:
//     aclk = 0, inputs of this cycle applied, eval -> all outputs settled, sampled -> aclk = 1, eval -> registers have moved.
//
// The DRAM model answers in order, accepts several bursts, returns the first beat of a burst `latency` cycles after its address was taken and one
// beat a cycle from then on, unless stalls or a bandwidth were asked for. It also is a protocol checker: what AXI4 forbids, or what our core
// promises beyond AXI4 (aligned, full-width INCR bursts; no access that races with another in flight), is counted as a violation and the first
// of them are kept as text.

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <string>

#include "Vtop.h"
#include "verilated.h"

#ifndef EDGEMOE_MASTERS
#define EDGEMOE_MASTERS 1
#endif
#ifndef EDGEMOE_DATA_BITS
#define EDGEMOE_DATA_BITS 128
#endif

namespace {

constexpr unsigned MASTERS = EDGEMOE_MASTERS;
constexpr unsigned BEAT_BYTES = EDGEMOE_DATA_BITS / 8;
constexpr unsigned BEAT_SIZE = BEAT_BYTES == 8 ? 3 : BEAT_BYTES == 16 ? 4 : BEAT_BYTES == 32 ? 5 : 6;
constexpr uint8_t OKAY = 0, SLVERR = 2, DECERR = 3;
constexpr uint64_t NEVER = ~uint64_t{0};
static_assert(MASTERS == 1 || MASTERS == 2 || MASTERS == 4, "1, 2 or 4 masters");
static_assert(BEAT_BYTES == (1u << BEAT_SIZE), "64, 128, 256 or 512 data bits");

using Beat = std::array<uint8_t, BEAT_BYTES>;

// Mirrored field by field by `_Config` and `_Counters` in sim/device.py, which compare the sizes.
struct Config {
    uint64_t size;             // bytes of each master's memory
    uint64_t base[4];          // first device address of each memory
    uint64_t seed;             // of the random stalls
    uint32_t latency;          // cycles from the handshake of AR to the first beat, at least 1
    uint32_t write_latency;    // cycles from the last beat of W to B, at least 1
    uint32_t outstanding;      // bursts accepted and not yet answered, reads and writes separately
    uint32_t longest_burst;    // beats; longer is a violation
    double stall_ar, stall_r, stall_aw, stall_w, stall_b;  // fraction of cycles in which the channel holds back
    double bandwidth;          // beats a cycle, reads and writes together; 0: no limit beside one a cycle in each direction
};

struct Counters {
    uint64_t cycles;
    uint64_t read_bursts, write_bursts;
    uint64_t read_beats, write_beats;
    uint64_t read_bytes, write_bytes;      // writes count enabled bytes only
    uint64_t read_refused, write_refused;  // beats that waited: for the core's RREADY; for the memory's WREADY
    uint64_t read_waiting;                 // cycles with a read outstanding and no beat offered
    uint64_t stalled;                      // transfers of any channel that a random stall put off by a cycle, each such cycle counted
    uint64_t address_errors;               // bursts outside the memory, answered with DECERR
    uint64_t violations;                   // of the protocol
};

class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull + 0x1234567ull) {}
    bool chance(double fraction) {
        if (fraction <= 0) return false;
        state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
        return double(state_ >> 11) * 0x1p-53 < fraction;
    }

  private:
    uint64_t state_;
};

// The pins of one master, whatever its prefix: pins.arvalid() is a reference to the model's own variable.
#define PIN(P, NAME) \
    auto& NAME() { return top->P##NAME; }
#define PINS(CLASS, P)                                                                                                            \
    struct CLASS {                                                                                                                \
        Vtop* top;                                                                                                                \
        PIN(P, awid) PIN(P, awaddr) PIN(P, awlen) PIN(P, awsize) PIN(P, awburst) PIN(P, awvalid) PIN(P, awready)                  \
        PIN(P, awcache) PIN(P, awprot) PIN(P, wdata) PIN(P, wstrb) PIN(P, wlast) PIN(P, wvalid) PIN(P, wready)                    \
        PIN(P, bid) PIN(P, bresp) PIN(P, bvalid) PIN(P, bready) PIN(P, arid) PIN(P, araddr) PIN(P, arlen) PIN(P, arsize)          \
        PIN(P, arburst) PIN(P, arcache) PIN(P, arprot) PIN(P, arvalid) PIN(P, arready)                                            \
        PIN(P, rid) PIN(P, rdata) PIN(P, rresp) PIN(P, rlast) PIN(P, rvalid) PIN(P, rready)                                       \
    };
#if EDGEMOE_MASTERS == 1
PINS(Pins0, m_axi_)
#else
PINS(Pins0, m_axi0_)
PINS(Pins1, m_axi1_)
#endif
#if EDGEMOE_MASTERS == 4
PINS(Pins2, m_axi2_)
PINS(Pins3, m_axi3_)
#endif

class Log {
  public:
    uint64_t* now;
    std::string text;  // the first violations, one a line

    void add(uint64_t& counter, const char* format, ...) {
        if (counter++ >= 32) return;  // what follows the first few is rarely news
        char line[240];
        int head = std::snprintf(line, sizeof line, "cycle %llu: ", static_cast<unsigned long long>(*now));
        va_list arguments;
        va_start(arguments, format);
        std::vsnprintf(line + head, sizeof line - head, format, arguments);
        va_end(arguments);
        text += line;
        text += '\n';
    }
};

struct Burst {
    uint64_t address;
    uint64_t due;      // cycle of the first beat (reads) or of the response (writes)
    uint32_t beats;
    uint32_t done;
    uint8_t id;
    uint8_t response;  // of the whole burst: OKAY or DECERR; a write's may become SLVERR by an injected fault
};

// An address channel as it was in the last cycle, to hold the master to "stable until accepted".
struct Address {
    bool waiting = false;
    uint64_t address = 0;
    uint32_t rest = 0;
    bool operator==(const Address& other) const { return address == other.address && rest == other.rest; }
};

template <class Pins>
class Dram {
  public:
    Pins pins;
    uint8_t* memory = nullptr;
    Counters counters{};
    Log log;
    uint64_t fault_read = NEVER, fault_write = NEVER, silent_read = NEVER, silent_write = NEVER;
    uint8_t fault_read_response = SLVERR, fault_write_response = SLVERR;

    Dram(Vtop* top, const Config& config, unsigned index, uint64_t* now)
        : pins{top}, config_(config), base_(config.base[index]), now_(*now), random_(config.seed * 2 + index + 1) {
        log.now = now;
        memory = static_cast<uint8_t*>(std::calloc(config.size, 1));  // untouched pages cost nothing
    }
    Dram(const Dram&) = delete;
    ~Dram() { std::free(memory); }

    uint64_t outstanding() const { return reads_.size() + writes_.size() + responses_.size() + early_.size(); }

    void reset() {
        reads_.clear(), writes_.clear(), responses_.clear(), early_.clear();
        r_valid_ = b_valid_ = false;
        last_ar_ = last_aw_ = {};
        last_w_waiting_ = false;
        pins.arready() = pins.awready() = pins.wready() = pins.rvalid() = pins.bvalid() = 0;
    }

    // While aresetn is low, from the second clock edge on.
    void check_reset() {
        if (pins.arvalid() || pins.awvalid() || pins.wvalid()) violation("VALID is high in reset");
    }

    // Before the falling edge's eval: the inputs of this cycle.
    void drive() {
        if (config_.bandwidth > 0) credit_ = std::min(credit_ + config_.bandwidth, 2.0);
        held_ar_ = held_aw_ = held_w_ = false;
        pins.arready() = reads_.size() < config_.outstanding && read_answers() && !(held_ar_ = random_.chance(config_.stall_ar));
        pins.awready() = writes_.size() + responses_.size() < config_.outstanding && write_answers() && !(held_aw_ = random_.chance(config_.stall_aw));
        pins.wready() = early_.size() < 16 && write_answers() && afford() && !(held_w_ = random_.chance(config_.stall_w));

        if (!r_valid_ && !reads_.empty()) {
            const Burst& burst = reads_.front();
            if (now_ >= burst.due && read_answers() && afford() && !stalls(config_.stall_r)) {
                offer_read(burst);
            } else {
                counters.read_waiting++;
            }
        }
        pins.rvalid() = r_valid_;
        if (!b_valid_ && !responses_.empty()) {
            const Burst& burst = responses_.front();
            if (now_ >= burst.due && write_answers() && !stalls(config_.stall_b)) {
                b_valid_ = true;
                pins.bid() = burst.id;
                pins.bresp() = burst.response;
            }
        }
        pins.bvalid() = b_valid_;
    }

    // After the falling edge's eval: what happens at the coming rising edge.
    void sample() {
        counters.stalled += (held_ar_ && pins.arvalid()) + (held_aw_ && pins.awvalid()) + (held_w_ && pins.wvalid());
        sample_read_address();
        if (r_valid_) sample_read();
        sample_write_address();
        if (pins.wvalid() || last_w_waiting_) sample_write();
        if (b_valid_ && pins.bready()) {
            b_valid_ = false;
            responses_.pop_front();
        }
    }

  private:
    const Config config_;
    const uint64_t base_;
    const uint64_t& now_;
    Random random_;
    double credit_ = 0;
    std::deque<Burst> reads_, writes_, responses_;
    struct Data {
        Beat data;
        uint64_t strobe;
        bool last;
        bool operator==(const Data& other) const { return data == other.data && strobe == other.strobe && last == other.last; }
    };
    std::deque<Data> early_;  // beats of W that came before their address, which AXI4 allows
    bool r_valid_ = false, b_valid_ = false, last_w_waiting_ = false;
    bool held_ar_ = false, held_aw_ = false, held_w_ = false;  // ready is low in this cycle because of a random stall, and of nothing else
    Address last_ar_, last_aw_;
    Data last_w_{};

    template <class... T>
    void violation(const char* format, T... arguments) {
        log.add(counters.violations, format, arguments...);
    }
    bool read_answers() const { return counters.read_beats < silent_read; }
    bool write_answers() const { return counters.write_beats < silent_write; }
    bool afford() const { return config_.bandwidth <= 0 || credit_ >= 1; }
    bool stalls(double fraction) {
        const bool held = random_.chance(fraction);
        counters.stalled += held;
        return held;
    }
    void pay() { if (config_.bandwidth > 0) credit_ -= 1; }

    static uint64_t end(const Burst& burst) { return burst.address + uint64_t{burst.beats} * BEAT_BYTES; }
    static bool overlap(const Burst& a, const Burst& b) { return a.address < end(b) && b.address < end(a); }

    Burst accept(const char* channel, uint64_t address, unsigned length, unsigned size, unsigned kind, unsigned id) {
        Burst burst{address, NEVER, length + 1, 0, static_cast<uint8_t>(id), OKAY};
        const auto shown = static_cast<unsigned long long>(address);
        if (kind != 1) violation("%s 0x%llx: burst type %u is not INCR", channel, shown, kind);
        if (size != BEAT_SIZE) violation("%s 0x%llx: size %u, but the bus is %u bytes wide", channel, shown, size, BEAT_BYTES);
        if (address % BEAT_BYTES) violation("%s 0x%llx: not aligned to %u bytes", channel, shown, BEAT_BYTES);
        if (burst.beats > config_.longest_burst) violation("%s 0x%llx: burst of %u beats, limit %u", channel, shown, burst.beats, config_.longest_burst);
        if ((address >> 12) != ((end(burst) - 1) >> 12)) violation("%s 0x%llx: burst of %u beats crosses 4 KiB", channel, shown, burst.beats);
        if (address < base_ || end(burst) > base_ + config_.size) {
            burst.response = DECERR;
            // Recorded as text beside the violations, but not one of them: a program with a wrong pointer is not the bus's fault.
            log.add(counters.address_errors, "%s 0x%llx: %u beats outside the memory 0x%llx..0x%llx", channel, shown, burst.beats,
                    static_cast<unsigned long long>(base_), static_cast<unsigned long long>(base_ + config_.size));
        }
        return burst;
    }

    void stable(const char* channel, Address& last, bool valid, bool ready, const Address& current) {
        if (last.waiting && !valid) violation("%sVALID fell before %sREADY", channel, channel);
        if (last.waiting && valid && !(last == current)) violation("%s changed before %sREADY", channel, channel);
        last = current;
        last.waiting = valid && !ready;
    }

    void sample_read_address() {
        const bool valid = pins.arvalid();
        if (!valid && !last_ar_.waiting) return;
        const uint32_t rest = pins.arlen() | pins.arsize() << 8 | pins.arburst() << 12 | pins.arid() << 16 | pins.arcache() << 20 | pins.arprot() << 24;
        stable("AR", last_ar_, valid, pins.arready(), Address{false, pins.araddr(), rest});
        if (!valid || !pins.arready()) return;
        Burst burst = accept("AR", pins.araddr(), pins.arlen(), pins.arsize(), pins.arburst(), pins.arid());
        burst.due = now_ + std::max(1u, config_.latency);
        for (const auto* queue : {&writes_, &responses_})
            for (const Burst& write : *queue)
                if (overlap(burst, write)) violation("AR 0x%llx races with a write not yet acknowledged", static_cast<unsigned long long>(burst.address));
        reads_.push_back(burst);
        counters.read_bursts++;
    }

    void offer_read(const Burst& burst) {
        r_valid_ = true;
        pay();
        uint8_t response = burst.response;
        if (counters.read_beats == fault_read) response = fault_read_response;
        if (burst.response == OKAY) {
            std::memcpy(&pins.rdata(), memory + (burst.address - base_) + uint64_t{burst.done} * BEAT_BYTES, BEAT_BYTES);
        } else {
            std::memset(&pins.rdata(), 0xEE, BEAT_BYTES);
        }
        pins.rid() = burst.id;
        pins.rresp() = response;
        pins.rlast() = burst.done + 1 == burst.beats;
    }

    void sample_read() {
        if (!pins.rready()) {
            counters.read_refused++;
            return;
        }
        r_valid_ = false;
        counters.read_beats++;
        counters.read_bytes += BEAT_BYTES;
        if (++reads_.front().done == reads_.front().beats) reads_.pop_front();
    }

    void sample_write_address() {
        const bool valid = pins.awvalid();
        if (!valid && !last_aw_.waiting) return;
        const uint32_t rest = pins.awlen() | pins.awsize() << 8 | pins.awburst() << 12 | pins.awid() << 16 | pins.awcache() << 20 | pins.awprot() << 24;
        stable("AW", last_aw_, valid, pins.awready(), Address{false, pins.awaddr(), rest});
        if (!valid || !pins.awready()) return;
        Burst burst = accept("AW", pins.awaddr(), pins.awlen(), pins.awsize(), pins.awburst(), pins.awid());
        for (const Burst& read : reads_)
            if (overlap(burst, read)) violation("AW 0x%llx races with a read in flight", static_cast<unsigned long long>(burst.address));
        writes_.push_back(burst);
        counters.write_bursts++;
        while (!early_.empty() && !writes_.empty()) {
            const Data data = early_.front();
            early_.pop_front();
            store(data);
        }
    }

    void sample_write() {
        const bool valid = pins.wvalid();
        Data data;
        std::memcpy(data.data.data(), &pins.wdata(), BEAT_BYTES);
        data.strobe = pins.wstrb();
        data.last = pins.wlast();
        if (last_w_waiting_ && !valid) violation("WVALID fell before WREADY");
        if (last_w_waiting_ && valid && !(data == last_w_)) violation("W changed before WREADY");
        last_w_ = data;
        last_w_waiting_ = valid && !pins.wready();
        if (!valid) return;
        if (!pins.wready()) {
            counters.write_refused++;
            return;
        }
        pay();
        if (writes_.empty()) {
            early_.push_back(data);
        } else {
            store(data);
        }
    }

    void store(const Data& data) {
        Burst& burst = writes_.front();
        if (burst.response == OKAY || burst.response == SLVERR) {
            uint8_t* target = memory + (burst.address - base_) + uint64_t{burst.done} * BEAT_BYTES;
            for (unsigned i = 0; i < BEAT_BYTES; i++)
                if (data.strobe >> i & 1) target[i] = data.data[i];
        }
        if (counters.write_beats == fault_write) burst.response = std::max(burst.response, fault_write_response);
        counters.write_beats++;
        counters.write_bytes += __builtin_popcountll(data.strobe);
        burst.done++;
        const bool last = burst.done == burst.beats;
        if (data.last != last) violation("AW 0x%llx: WLAST is %d at beat %u of %u", static_cast<unsigned long long>(burst.address), data.last, burst.done, burst.beats);
        if (last) {
            burst.due = now_ + std::max(1u, config_.write_latency);
            responses_.push_back(burst);
            writes_.pop_front();
        }
    }
};

class Simulation {
  public:
    uint64_t now = 0;
    VerilatedContext context;
    Vtop top{&context};
    Dram<Pins0> dram0;
#if EDGEMOE_MASTERS > 1
    Dram<Pins1> dram1;
#endif
#if EDGEMOE_MASTERS == 4
    Dram<Pins2> dram2;
    Dram<Pins3> dram3;
#endif
    std::string text;

    explicit Simulation(const Config& config)
        : dram0(&top, config, 0, &now)
#if EDGEMOE_MASTERS > 1
        , dram1(&top, config, 1, &now)
#endif
#if EDGEMOE_MASTERS == 4
        , dram2(&top, config, 2, &now)
        , dram3(&top, config, 3, &now)
#endif
    {
        top.aclk = 0;
        top.aresetn = 0;
        idle_registers();
        each([](auto& dram) { dram.reset(); });
        top.eval();
    }
    ~Simulation() { top.final(); }

    template <class F>
    void each(F&& action) {
        action(dram0);
#if EDGEMOE_MASTERS > 1
        action(dram1);
#endif
#if EDGEMOE_MASTERS == 4
        action(dram2);
        action(dram3);
#endif
    }

    // Pick one memory by its number; `fallback` for a number that does not exist.
    template <class T, class F>
    T pick(unsigned master, T fallback, F&& action) {
        if (master == 0) return action(dram0);
#if EDGEMOE_MASTERS > 1
        if (master == 1) return action(dram1);
#endif
#if EDGEMOE_MASTERS == 4
        if (master == 2) return action(dram2);
        if (master == 3) return action(dram3);
#endif
        return fallback;
    }

    // First half of a cycle: afterwards the outputs are settled and the memories have seen them.
    void low() {
        each([](auto& dram) { dram.drive(); });
        top.aclk = 0;
        top.eval();
        each([](auto& dram) { dram.sample(); });
    }
    void high() {
        top.aclk = 1;
        top.eval();
        now++;
        each([this](auto& dram) { dram.counters.cycles = now; });
    }

    void reset(uint64_t cycles) {
        idle_registers();
        each([](auto& dram) { dram.reset(); });
        top.aresetn = 0;
        for (uint64_t i = 0; i < cycles; i++) {
            top.aclk = 0;
            top.eval();
            if (i > 0) each([](auto& dram) { dram.check_reset(); });
            high();
        }
        top.aresetn = 1;
    }

    // (`interrupt` is a word of some C++ compilers: Verilator puts __SYM__ before it.)
    // Runs until the interrupt is seen or `limit` cycles have passed; returns the cycles run.
    uint64_t run(uint64_t limit, bool until_interrupt) {
        for (uint64_t i = 0; i < limit; i++) {
            low();
            const bool stop = until_interrupt && top.__SYM__interrupt;
            high();
            if (stop) return i + 1;
        }
        return limit;
    }

    // Both return the response of the slave, or -1 if it did not answer in `limit` cycles.
    int write_register(uint32_t offset, uint32_t value, uint64_t limit) {
        top.s_axil_awaddr = offset;
        top.s_axil_awprot = 0;
        top.s_axil_wdata = value;
        top.s_axil_wstrb = 0xF;
        top.s_axil_awvalid = top.s_axil_wvalid = 1;
        top.s_axil_bready = 1;
        int response = -1;
        for (uint64_t i = 0; i < limit && response < 0; i++) {
            low();
            const bool address = top.s_axil_awvalid && top.s_axil_awready, data = top.s_axil_wvalid && top.s_axil_wready;
            if (top.s_axil_bvalid) response = top.s_axil_bresp;
            high();
            // Inputs move only after the edge that took them.
            if (address) top.s_axil_awvalid = 0;
            if (data) top.s_axil_wvalid = 0;
        }
        idle_registers();
        return response;
    }

    int read_register(uint32_t offset, uint32_t* value, uint64_t limit) {
        top.s_axil_araddr = offset;
        top.s_axil_arprot = 0;
        top.s_axil_arvalid = 1;
        top.s_axil_rready = 1;
        int response = -1;
        for (uint64_t i = 0; i < limit && response < 0; i++) {
            low();
            const bool address = top.s_axil_arvalid && top.s_axil_arready;
            if (top.s_axil_rvalid) response = top.s_axil_rresp, *value = top.s_axil_rdata;
            high();
            if (address) top.s_axil_arvalid = 0;
        }
        idle_registers();
        return response;
    }

  private:
    void idle_registers() {
        top.s_axil_awvalid = top.s_axil_wvalid = top.s_axil_arvalid = 0;
        top.s_axil_bready = top.s_axil_rready = 0;
    }
};

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API uint32_t edgemoe_config_size() { return sizeof(Config); }
API uint32_t edgemoe_counters_size() { return sizeof(Counters); }
API uint32_t edgemoe_masters() { return MASTERS; }
API uint32_t edgemoe_beat_bytes() { return BEAT_BYTES; }

API Simulation* edgemoe_create(const Config* config) {
    auto* simulation = new Simulation(*config);
    bool complete = true;
    simulation->each([&](auto& dram) { complete = complete && dram.memory; });
    if (!complete) {
        delete simulation;
        return nullptr;
    }
    return simulation;
}
API void edgemoe_destroy(Simulation* simulation) { delete simulation; }
API void edgemoe_reset(Simulation* simulation, uint64_t cycles) { simulation->reset(cycles); }
API uint64_t edgemoe_run(Simulation* simulation, uint64_t limit) { return simulation->run(limit, true); }
API uint64_t edgemoe_step(Simulation* simulation, uint64_t cycles) { return simulation->run(cycles, false); }
API int edgemoe_interrupt(Simulation* simulation) { return simulation->top.__SYM__interrupt; }
API int edgemoe_write(Simulation* simulation, uint32_t offset, uint32_t value, uint64_t limit) { return simulation->write_register(offset, value, limit); }
API int edgemoe_read(Simulation* simulation, uint32_t offset, uint32_t* value, uint64_t limit) { return simulation->read_register(offset, value, limit); }
API void* edgemoe_memory(Simulation* simulation, unsigned master) {
    return simulation->pick(master, static_cast<void*>(nullptr), [](auto& dram) -> void* { return dram.memory; });
}
API void edgemoe_counters(Simulation* simulation, unsigned master, Counters* out) {
    simulation->pick(master, 0, [&](auto& dram) { return *out = dram.counters, 0; });
}
API uint64_t edgemoe_outstanding(Simulation* simulation, unsigned master) {
    return simulation->pick(master, uint64_t{0}, [](auto& dram) { return dram.outstanding(); });
}
// The text belongs to the simulation and lives until the next call.
API const char* edgemoe_messages(Simulation* simulation, unsigned master) {
    simulation->text = simulation->pick(master, std::string(), [](auto& dram) { return dram.log.text; });
    return simulation->text.c_str();
}
// Faults count beats from now: 0 is the next one. A response of OKAY withdraws the fault.
API void edgemoe_fault_read(Simulation* simulation, unsigned master, uint64_t beat, uint8_t response) {
    simulation->pick(master, 0, [&](auto& dram) {
        dram.fault_read = response == OKAY ? NEVER : dram.counters.read_beats + beat;
        dram.fault_read_response = response;
        return 0;
    });
}
API void edgemoe_fault_write(Simulation* simulation, unsigned master, uint64_t beat, uint8_t response) {
    simulation->pick(master, 0, [&](auto& dram) {
        dram.fault_write = response == OKAY ? NEVER : dram.counters.write_beats + beat;
        dram.fault_write_response = response;
        return 0;
    });
}
// The memory answers that many more beats and then falls silent; the largest number wakes it up again.
API void edgemoe_silence(Simulation* simulation, unsigned master, uint64_t read_beats, uint64_t write_beats) {
    simulation->pick(master, 0, [&](auto& dram) {
        dram.silent_read = read_beats == NEVER ? NEVER : dram.counters.read_beats + read_beats;
        dram.silent_write = write_beats == NEVER ? NEVER : dram.counters.write_beats + write_beats;
        return 0;
    });
}
