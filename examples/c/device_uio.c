/* SPDX-License-Identifier: Apache-2.0 */
/* The core in the FPGA beside this processor: registers through UIO, memory in u-dma-buf, as `edgemoe build` sets them up. */
/* `where`: the UIO device, uio0. EDGEMOE_SYSROOT: another root than / for /dev and /sys. */
#include "device.h"
#include "edgemoe.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { REGISTER_BYTES = 4096, TO_DEVICE = 1, FROM_DEVICE = 2 };

struct uio {
    const char *root;
    int handle;
    volatile uint32_t *registers;
};

static int open_at(const char *root, const char *folder, const char *name, int flags) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s%s", root, folder, name);
    return open(path, flags);
}

static unsigned long long number(const char *root, const char *buffer, const char *name) {
    char folder[128], text[64] = "";
    snprintf(folder, sizeof folder, "sys/class/u-dma-buf/%s/", buffer);
    const int handle = open_at(root, folder, name, O_RDONLY);
    if (handle < 0) return 0;
    const ssize_t size = read(handle, text, sizeof text - 1);
    close(handle);
    return size > 0 ? strtoull(text, NULL, 0) : 0;
}

/* The processor's cache and the core's view of a memory: what was written here is made visible, or what the core wrote. */
static void sync_bank(struct device *device, unsigned bank, const char *what, int direction) {
    const struct uio *uio = device->state;
    char folder[128], command[64];
    snprintf(folder, sizeof folder, "sys/class/u-dma-buf/edgemoe-memory%u/", bank);
    const int handle = open_at(uio->root, folder, what, O_WRONLY | O_APPEND);
    if (handle < 0) return;
    const unsigned size = (unsigned)device->bank_bytes & 0xFFFFFFF0u;
    const int length = snprintf(command, sizeof command, "0x%08X%08X\n", 0u, size | (unsigned)direction << 2 | 1u);
    if (write(handle, command, (size_t)length) != length) fprintf(stderr, "edgemoe-memory%u: %s failed\n", bank, what);
    close(handle);
}

static uint32_t read_register(struct device *device, uint32_t offset) {
    return ((struct uio *)device->state)->registers[offset / 4];
}

static void write_register(struct device *device, uint32_t offset, uint32_t value) {
    if (offset == EDGEMOE_CTRL)
        for (unsigned i = 0; i < device->masters; i++) sync_bank(device, i, "sync_for_device", TO_DEVICE);
    ((struct uio *)device->state)->registers[offset / 4] = value;
}

/* Looks at the register ten thousand times a second, which asks for no interrupt in the device tree. */
static int wait_for_interrupt(struct device *device) {
    const struct timespec pause = {.tv_nsec = 100000};
    while (!(read_register(device, EDGEMOE_CTRL) & EDGEMOE_CTRL_IDLE)) nanosleep(&pause, NULL); /* the core's watchdog ends a stuck run */
    for (unsigned i = 0; i < device->masters; i++) sync_bank(device, i, "sync_for_cpu", FROM_DEVICE);
    return 1;
}

static void close_uio(struct device *device) {
    struct uio *uio = device->state;
    for (unsigned i = 0; i < device->masters; i++)
        if (device->banks[i]) munmap(device->banks[i], device->bank_bytes);
    munmap((void *)uio->registers, REGISTER_BYTES);
    close(uio->handle);
    free(uio);
}

static unsigned char *map_bank(struct device *device, unsigned bank) {
    const struct uio *uio = device->state;
    char name[64];
    snprintf(name, sizeof name, "edgemoe-memory%u", bank);
    device->addresses[bank] = number(uio->root, name, "phys_addr");
    const size_t size = (size_t)number(uio->root, name, "size");
    if (!bank || size < device->bank_bytes) device->bank_bytes = size;
    const int handle = open_at(uio->root, "dev/", name, O_RDWR);
    if (handle < 0) return NULL;
    void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, handle, 0);
    close(handle);
    return mapped == MAP_FAILED ? NULL : mapped;
}

const char *device_open(struct device *device, const char *where, size_t memory_bytes) {
    struct uio *uio = calloc(1, sizeof *uio);
    if (!uio) return "out of memory";
    uio->root = getenv("EDGEMOE_SYSROOT") ? getenv("EDGEMOE_SYSROOT") : "";
    uio->handle = open_at(uio->root, "dev/", where, O_RDWR);
    void *mapped = uio->handle < 0 ? MAP_FAILED : mmap(NULL, REGISTER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, uio->handle, 0);
    if (mapped == MAP_FAILED) {
        if (uio->handle >= 0) close(uio->handle);
        free(uio);
        return "the UIO device cannot be opened";
    }
    uio->registers = mapped;
    *device = (struct device){.state = uio, .read = read_register, .write = write_register, .wait = wait_for_interrupt, .close = close_uio};
    if (read_register(device, EDGEMOE_MAGIC) != EDGEMOE_MAGIC_VALUE) {
        close_uio(device);
        return "no core answers: is the bitstream loaded?";
    }
    const unsigned masters = read_register(device, EDGEMOE_MASTERS);
    device->granule = read_register(device, EDGEMOE_DATA_BITS) / 8;
    for (; device->masters < masters && device->masters < MOST_MASTERS; device->masters++)
        if (!(device->banks[device->masters] = map_bank(device, device->masters))) {
            close_uio(device);
            return "no DMA buffer edgemoe-memory: load u-dma-buf and the device-tree overlay";
        }
    if (device->bank_bytes * masters < memory_bytes) {
        close_uio(device);
        return "the DMA buffers are smaller than the program's memory";
    }
    return NULL;
}
