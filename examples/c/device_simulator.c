/* SPDX-License-Identifier: Apache-2.0 */
/* The generated Verilog as a shared library with a model of DRAM behind it: sim/harness.cpp says what its functions do. */
#include "device.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* `struct Config` of sim/harness.cpp, whose size the library tells. */
struct config {
    uint64_t size, base[MOST_MASTERS], seed;
    uint32_t latency, write_latency, outstanding, longest_burst;
    double stalls[5], bandwidth;
};

struct simulator {
    void *library, *core;
    void (*destroy)(void *);
    uint64_t (*run)(void *, uint64_t);
    int (*interrupt)(void *);
    int (*write)(void *, uint32_t, uint32_t, uint64_t);
    int (*read)(void *, uint32_t, uint32_t *, uint64_t);
};

enum { REGISTER_CYCLES = 10000 };

static uint32_t read_register(struct device *device, uint32_t offset) {
    struct simulator *s = device->state;
    uint32_t value = 0;
    return s->read(s->core, offset, &value, REGISTER_CYCLES) == 0 ? value : 0;
}

static void write_register(struct device *device, uint32_t offset, uint32_t value) {
    struct simulator *s = device->state;
    s->write(s->core, offset, value, REGISTER_CYCLES);
}

static int wait_for_interrupt(struct device *device) {
    struct simulator *s = device->state;
    s->run(s->core, UINT64_C(1) << 40); /* the core's own watchdog ends a stuck run far earlier */
    return s->interrupt(s->core);
}

static void close_simulator(struct device *device) {
    struct simulator *s = device->state;
    if (s->core) s->destroy(s->core);
    dlclose(s->library);
    free(s);
}

/* A function of the library. (C has no conversion from an object's pointer to a function's, POSIX asks for one.) */
static int find(void *library, const char *name, void *function) {
    void *found = dlsym(library, name);
    memcpy(function, &found, sizeof found);
    return found != NULL;
}

const char *device_open(struct device *device, const char *where, size_t memory_bytes) {
    struct simulator *s = calloc(1, sizeof *s);
    if (!s || !(s->library = dlopen(where, RTLD_NOW | RTLD_LOCAL))) {
        free(s);
        return "the simulator's library cannot be loaded";
    }
    uint32_t (*number)(void), (*masters)(void), (*beat)(void);
    void *(*create)(const struct config *), *(*memory)(void *, uint32_t);
    void (*reset)(void *, uint64_t);
    *device = (struct device){
        .state = s, .read = read_register, .write = write_register, .wait = wait_for_interrupt, .close = close_simulator};
    const int all = find(s->library, "edgemoe_config_size", &number) && find(s->library, "edgemoe_masters", &masters) &&
                    find(s->library, "edgemoe_beat_bytes", &beat) && find(s->library, "edgemoe_create", &create) &&
                    find(s->library, "edgemoe_destroy", &s->destroy) && find(s->library, "edgemoe_reset", &reset) &&
                    find(s->library, "edgemoe_run", &s->run) && find(s->library, "edgemoe_interrupt", &s->interrupt) &&
                    find(s->library, "edgemoe_write", &s->write) && find(s->library, "edgemoe_read", &s->read) &&
                    find(s->library, "edgemoe_memory", &memory);
    if (!all || number() != sizeof(struct config)) {
        close_simulator(device);
        return "this is no simulator of a core, or one of another release";
    }
    device->masters = masters();
    device->granule = beat();
    device->bank_bytes = (memory_bytes / device->masters + 4095) / 4096 * 4096;
    struct config config = {
        .size = device->bank_bytes, .base = {0x140000000, 0x280000000, 0x3c0000000, 0x500000000}, .seed = 1,
        .latency = 64, .write_latency = 64, .outstanding = 16, .longest_burst = 256};
    s->core = create(&config);
    if (!s->core) {
        close_simulator(device);
        return "there is not enough memory for the simulated one";
    }
    for (unsigned i = 0; i < device->masters; i++) {
        device->addresses[i] = config.base[i];
        device->banks[i] = memory(s->core, i);
    }
    reset(s->core, 8);
    return NULL;
}
