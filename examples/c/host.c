/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A compiled program on a core, without Python: load once, then a run for every picture.
 *
 *     host PROGRAM.emoe DEVICE PICTURE.ppm...
 *
 * writes PICTURE-IMAGE-TASK.npy, float32 [rows, outputs], for each result: of a head, a row for each patch; of tokens
 * (-tokens.npy), a row for each token. Several pictures in one run, if the program takes several.
 */
#include "device.h"
#include "edgemoe.h" /* registers of the core: `edgemoe verilog` and `edgemoe build` write it */
#include "program.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WATCHDOG_CYCLES = 1000000 };

static void write_long(struct device *device, uint32_t offset, uint64_t value) {
    device->write(device, offset, (uint32_t)value);
    device->write(device, offset + 4, (uint32_t)(value >> 32));
}

/* Whether the core is one of ours, and of the sizes that the program was compiled for. */
static const char *check(struct device *device, const struct program *program) {
    if (device->read(device, EDGEMOE_MAGIC) != EDGEMOE_MAGIC_VALUE) return "no core answers";
    if (device->read(device, EDGEMOE_VERSION) >> 16 != EDGEMOE_VERSION_VALUE >> 16) return "the core is of another version";
    if (device->read(device, EDGEMOE_CONFIG_HASH) != program->facts->config_hash)
        return "the core has other sizes than the program was compiled for";
    return NULL;
}

/* A picture's bytes, channel by channel; NULL if it is not of the program's size. Binary PPM (3 channels) or PGM (1). */
static unsigned char *picture(const char *path, const struct facts *facts) {
    FILE *file = fopen(path, "rb");
    unsigned long long width, height, most;
    char kind = 0;
    unsigned char *planes = NULL;
    if (file && fscanf(file, "P%c %llu %llu %llu", &kind, &width, &height, &most) == 4 && fgetc(file) != EOF && most == 255 &&
        kind == (facts->channels == 3 ? '6' : '5') && width == facts->width && height == facts->height) {
        const size_t pixels = (size_t)(width * height);
        planes = malloc(pixels * facts->channels);
        for (size_t i = 0; planes && i < pixels; i++)
            for (size_t c = 0; c < facts->channels; c++) planes[c * pixels + i] = (unsigned char)fgetc(file);
        if (feof(file)) {
            free(planes);
            planes = NULL;
        }
    }
    if (file) fclose(file);
    return planes;
}

static void put_picture(struct device *device, const struct program *program, uint64_t image, const unsigned char *planes) {
    const struct facts *facts = program->facts;
    for (const struct piece *p = program->pieces; p < program->pieces + program->piece_count; p++) {
        uint64_t to = p->offset;
        if (p->image != image) continue;
        for (uint64_t c = 0; c < facts->channels; c++)
            for (uint64_t y = 0; y < p->height; y++, to += p->width)
                device_put(device, to, planes + (c * facts->height + p->top + y) * facts->width + p->left, p->width);
    }
}

static const char *run(struct device *device, const struct program *program) {
    if (!(device->read(device, EDGEMOE_CTRL) & EDGEMOE_CTRL_IDLE)) return "the core is busy";
    device->write(device, EDGEMOE_GIE, 1);
    device->write(device, EDGEMOE_IER, 3);
    device->write(device, EDGEMOE_ISR, 3);
    device->write(device, EDGEMOE_WATCHDOG, WATCHDOG_CYCLES);
    write_long(device, EDGEMOE_PROGRAM_LO, program->facts->start);
    for (unsigned i = 0; i < device->masters; i++)
        write_long(device, EDGEMOE_BASE_0_LO + i * (EDGEMOE_BASE_1_LO - EDGEMOE_BASE_0_LO), device->addresses[i]);
    device->write(device, EDGEMOE_CTRL, EDGEMOE_CTRL_START);
    if (!device->wait(device)) return "the core did not finish";
    const uint32_t code = device->read(device, EDGEMOE_ERROR_CODE);
    if (code != EDGEMOE_ERROR_CODE_NONE) {
        fprintf(stderr, "error code %u at instruction %u\n", code, device->read(device, EDGEMOE_ERROR_INSTRUCTION));
        return "the core stopped with an error";
    }
    return NULL;
}

/* A result as numpy.load takes it. */
static int save(struct device *device, const struct result *r, const char *picture) {
    const size_t across = (size_t)(r->words * r->lanes), size = (size_t)r->rows * across;
    int16_t *numbers = malloc(size * sizeof *numbers);
    float *row = malloc((size_t)r->outputs * sizeof *row);
    const char *end = strrchr(picture, '.');
    char path[4096], shape[96], header[128];
    snprintf(path, sizeof path, "%.*s-%lld-%lld%s.npy", (int)(end ? end - picture : (long)strlen(picture)), picture, (long long)r->image,
             (long long)r->task, r->tokens ? "-tokens" : "");
    FILE *file = numbers && row ? fopen(path, "wb") : NULL;
    if (file) {
        device_get(device, (uint64_t)r->offset, numbers, size * sizeof *numbers);
        snprintf(shape, sizeof shape, "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %lld), }", (long long)r->rows,
                 (long long)r->outputs);
        snprintf(header, sizeof header, "%-117s", shape);
        fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, file);
        fprintf(file, "%.117s\n", header);
        for (int64_t i = 0; i < r->rows; i++) {
            for (int64_t j = 0; j < r->outputs; j++) row[j] = ldexpf(numbers[(size_t)i * across + (size_t)j], (int)-r->exponent);
            fwrite(row, sizeof *row, (size_t)r->outputs, file);
        }
        fclose(file);
        printf("%s: %lld x %lld\n", path, (long long)r->rows, (long long)r->outputs);
    }
    free(numbers);
    free(row);
    return file != NULL;
}

static int fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    return 2;
}

/* All pictures, as many in a run as the program takes. */
static int run_all(struct device *device, const struct program *program, char **pictures, uint64_t count) {
    const uint64_t together = program->facts->images;
    if (count % together) return fail("pictures", "give a multiple of as many as the program takes");
    for (uint64_t first = 0; first < count; first += together) {
        for (uint64_t i = 0; i < together; i++) {
            unsigned char *planes = picture(pictures[first + i], program->facts);
            if (!planes) return fail(pictures[first + i], "is no binary PPM or PGM of the model's size");
            put_picture(device, program, i, planes);
            free(planes);
        }
        const char *wrong = run(device, program);
        if (wrong) return fail("run", wrong);
        printf("%u cycles\n", device->read(device, EDGEMOE_CYCLES_LO));
        for (size_t i = 0; i < program->result_count; i++)
            if (!save(device, &program->results[i], pictures[first + (uint64_t)program->results[i].image]))
                return fail(pictures[first], "the results beside it cannot be written");
    }
    return 0;
}

int main(int count, char **arguments) {
    struct program program;
    struct device device;
    if (count < 4) return fail("usage", "host PROGRAM.emoe DEVICE PICTURE.ppm...");
    const char *wrong = program_load(&program, arguments[1]);
    if (wrong) {
        program_free(&program);
        return fail(arguments[1], wrong);
    }
    int code = 2;
    if ((wrong = device_open(&device, arguments[2], (size_t)program.facts->memory_bytes))) {
        fail(arguments[2], wrong);
    } else {
        if ((wrong = check(&device, &program))) {
            fail(arguments[2], wrong);
        } else {
            device_put(&device, 0, program.memory, program.memory_bytes); /* once: runs leave it as it is */
            code = run_all(&device, &program, arguments + 3, (uint64_t)count - 3);
        }
        device.close(&device);
    }
    program_free(&program);
    return code;
}
