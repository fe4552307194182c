/* SPDX-License-Identifier: Apache-2.0 */
/* A program that `edgemoe compile` wrote: what host/program_file.py describes, read into memory. */
#ifndef EDGEMOE_PROGRAM_H
#define EDGEMOE_PROGRAM_H

#include <stddef.h>
#include <stdint.h>

/* The words of tensor `program`, in its order. */
struct facts {
    uint64_t version, config_hash, memory_bytes, start, instructions, images, channels, height, width, memory_crc, tables_crc;
};

/* A rectangle of picture `image` is written to `offset`, channel by channel. */
struct piece {
    uint64_t image, offset, top, left, height, width;
};

/* What a run leaves at `offset`: rows of words x lanes numbers, the first `outputs` count; value = number x 2^-exponent. */
struct result {
    int64_t image, task, tokens, offset, rows, words, lanes, outputs, exponent;
};

struct program {
    unsigned char *file; /* all of it; the pointers below lead into it */
    const struct facts *facts;
    const unsigned char *memory;
    size_t memory_bytes;
    const struct piece *pieces;
    size_t piece_count;
    const struct result *results;
    size_t result_count;
};

/* Reads and checks a file. Returns NULL, or what is wrong with it. */
const char *program_load(struct program *program, const char *path);
void program_free(struct program *program);

#endif
