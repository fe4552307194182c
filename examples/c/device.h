/* SPDX-License-Identifier: Apache-2.0 */
/* What the host needs of a core: registers, memory, the end of a run. device_simulator.c and device_uio.c are such. */
#ifndef EDGEMOE_DEVICE_H
#define EDGEMOE_DEVICE_H

#include <stddef.h>
#include <stdint.h>

enum { MOST_MASTERS = 4 };

struct device {
    void *state;
    unsigned masters;      /* memories, each behind an AXI4 master of the core */
    unsigned granule;      /* bytes of a beat: they go to the memories in turn */
    uint64_t addresses[MOST_MASTERS]; /* where each memory begins on its master's bus: for the registers BASE_n */
    unsigned char *banks[MOST_MASTERS];
    size_t bank_bytes;
    uint32_t (*read)(struct device *, uint32_t offset);
    void (*write)(struct device *, uint32_t offset, uint32_t value);
    int (*wait)(struct device *); /* until the interrupt; 0 if it never came */
    void (*close)(struct device *);
};

/* Both return NULL, or what went wrong. `where`: the simulator's shared library; the number of the UIO device. */
const char *device_open(struct device *device, const char *where, size_t memory_bytes);

/* Bytes at an offset of the core's memory, which is striped over its masters'. */
void device_put(struct device *device, uint64_t offset, const void *data, size_t size);
void device_get(struct device *device, uint64_t offset, void *data, size_t size);

#endif
