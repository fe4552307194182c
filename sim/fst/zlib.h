// SPDX-License-Identifier: Apache-2.0
//
// What Verilator's FST writer takes of zlib, with a compressor that the caller of the simulation lends (see waves.cpp).
#pragma once

typedef unsigned char Bytef;
typedef unsigned long uLong, uLongf;
enum { Z_OK = 0 };

// Room for the result, its size, source, its size, level -> Z_OK; the size becomes the result's.
typedef int (*edgemoe_zlib_function)(Bytef*, uLongf*, const Bytef*, uLong, int);
extern edgemoe_zlib_function edgemoe_zlib __attribute__((visibility("hidden")));

static inline uLong compressBound(uLong size) { return size + size / 512 + 64; }
static inline int compress2(Bytef* result, uLongf* room, const Bytef* source, uLong size, int level) {
    return edgemoe_zlib(result, room, source, size, level);
}
