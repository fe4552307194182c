/* SPDX-License-Identifier: Apache-2.0 */
/* A safetensors file as far as a program needs it: 8 bytes with the length of a header in JSON, the header, the tensors' bytes. */
#include "program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 1 };

static uint32_t crc32(uint32_t sum, const void *data, size_t size) {
    const unsigned char *bytes = data;
    sum = ~sum;
    for (size_t i = 0; i < size; i++) {
        sum ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) sum = sum >> 1 ^ (0xEDB88320u & -(sum & 1));
    }
    return ~sum;
}

/* The bytes of a tensor, and how many; NULL if there is none, or its bytes are not all there. */
static const void *tensor(const char *header, const unsigned char *data, size_t room, const char *name, size_t *size) {
    char key[64];
    unsigned long long begin, end;
    snprintf(key, sizeof key, "\"%s\":{\"dtype\":", name);
    const char *entry = strstr(header, key);
    const char *offsets = entry ? strstr(entry, "\"data_offsets\":[") : NULL;
    if (!offsets || sscanf(offsets, "\"data_offsets\":[%llu,%llu]", &begin, &end) != 2 || begin > end || end > room) return NULL;
    *size = (size_t)(end - begin);
    return data + begin;
}

const char *program_load(struct program *p, const char *path) {
    memset(p, 0, sizeof *p);
    FILE *file = fopen(path, "rb");
    if (!file) return "cannot be opened";
    fseek(file, 0, SEEK_END);
    const long length = ftell(file);
    rewind(file);
    /* One byte more, so that the header's text ends; aligned, as the numbers in it are. */
    p->file = length > 8 ? calloc(1, (size_t)length + 1) : NULL;
    const int whole = p->file && fread(p->file, 1, (size_t)length, file) == (size_t)length;
    fclose(file);
    if (!whole) return "cannot be read";

    uint64_t header;
    memcpy(&header, p->file, 8);
    if (header > (uint64_t)length - 8) return "is no program";
    const unsigned char *data = p->file + 8 + header;
    const size_t room = (size_t)length - 8 - (size_t)header;
    char *text = malloc((size_t)header + 1);
    if (!text) return "does not fit into memory";
    memcpy(text, p->file + 8, (size_t)header);
    text[header] = 0;
    size_t facts = 0, pieces = 0, results = 0;
    p->facts = tensor(text, data, room, "program", &facts);
    p->memory = tensor(text, data, room, "memory", &p->memory_bytes);
    p->pieces = tensor(text, data, room, "pieces", &pieces);
    p->results = tensor(text, data, room, "results", &results);
    free(text);
    if (!p->facts || !p->memory || !p->pieces || !p->results || facts < sizeof *p->facts) return "is no program";
    if (p->facts->version != VERSION) return "is a program of another version";
    p->piece_count = pieces / sizeof *p->pieces;
    p->result_count = results / sizeof *p->results;
    if (crc32(0, p->memory, p->memory_bytes) != p->facts->memory_crc) return "is damaged";
    if (crc32(crc32(0, p->pieces, pieces), p->results, results) != p->facts->tables_crc) return "is damaged";
    return NULL;
}

void program_free(struct program *p) {
    free(p->file);
    memset(p, 0, sizeof *p);
}
