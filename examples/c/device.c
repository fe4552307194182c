/* SPDX-License-Identifier: Apache-2.0 */
#include "device.h"

#include <string.h>

/* Where the byte at an offset lies, and how many of those behind it lie next to it. */
static unsigned char *place(struct device *device, uint64_t offset, size_t *together) {
    const uint64_t beat = offset / device->granule, within = offset % device->granule;
    *together = device->masters == 1 ? device->bank_bytes - offset : device->granule - within;
    return device->banks[beat % device->masters] + beat / device->masters * device->granule + within;
}

void device_put(struct device *device, uint64_t offset, const void *data, size_t size) {
    const unsigned char *bytes = data;
    for (size_t done = 0, part; done < size; done += part) {
        unsigned char *target = place(device, offset + done, &part);
        if (part > size - done) part = size - done;
        memcpy(target, bytes + done, part);
    }
}

void device_get(struct device *device, uint64_t offset, void *data, size_t size) {
    unsigned char *bytes = data;
    for (size_t done = 0, part; done < size; done += part) {
        const unsigned char *source = place(device, offset + done, &part);
        if (part > size - done) part = size - done;
        memcpy(bytes + done, source, part);
    }
}
