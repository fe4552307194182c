// SPDX-License-Identifier: Apache-2.0
//
// What Verilator's FST writer takes of LZ4, with a compressor that the caller of the simulation lends (see waves.cpp).
#pragma once

// Source, room for the result, their sizes -> bytes of the result, a block without a frame.
typedef int (*edgemoe_lz4_function)(const char*, char*, int, int);
extern edgemoe_lz4_function edgemoe_lz4 __attribute__((visibility("hidden")));

static inline int LZ4_compressBound(int size) { return size + size / 255 + 16; }
static inline int LZ4_compress_default(const char* source, char* result, int size, int room) {
    return edgemoe_lz4(source, result, size, room);
}
