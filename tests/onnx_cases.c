#include "onnx_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The rest of the file. */
typedef struct reader {
    const char *path, *at, *end;
} reader;

static _Noreturn void give_up(const char *path, const char *why) {
    fprintf(stderr, "%s: %s\n", path, why);
    abort();
}

static const char *take(reader *r, int64_t bytes) {
    if (bytes < 0 || bytes > r->end - r->at) give_up(r->path, "ends early, or is no file of scripts/onnx_cases");
    const char *field = r->at;
    r->at += bytes;
    return field;
}

static int64_t take_integer(reader *r) {
    int64_t value;
    memcpy(&value, take(r, sizeof value), sizeof value);
    return value;
}

static int64_t take_count(reader *r, int64_t most) {
    const int64_t count = take_integer(r);
    if (count < 0 || count > most) give_up(r->path, "holds more than tests/onnx_cases.h has room for");
    return count;
}

static double take_double(reader *r) {
    double value;
    memcpy(&value, take(r, sizeof value), sizeof value);
    return value;
}

static const char *take_bytes(reader *r, int64_t *bytes) {
    *bytes = take_count(r, r->end - r->at);
    return take(r, (*bytes + 7) / 8 * 8);
}

static const char *take_name(reader *r) {
    int64_t bytes;
    const char *name = take_bytes(r, &bytes);
    if (bytes == 0 || name[bytes - 1] != '\0') give_up(r->path, "has a name without its end");
    return name;
}

static onnx_tensor take_tensor(reader *r) {
    onnx_tensor tensor = {.name = take_name(r), .type = (onnx_type)take_integer(r), .rank = take_count(r, ONNX_RANK)};
    for (int64_t i = 0; i < tensor.rank; i++) tensor.shape[i] = take_integer(r);
    int64_t bytes;
    tensor.data = take_bytes(r, &bytes);
    tensor.bytes = (size_t)bytes;
    return tensor;
}

static void take_case(reader *r, onnx_case *c) {
    c->name = take_name(r);
    c->rtol = take_double(r);
    c->atol = take_double(r);
    c->n_attributes = take_count(r, ONNX_MOST_ATTRIBUTES);
    for (int64_t i = 0; i < c->n_attributes; i++) {
        c->attributes[i].name = take_name(r);
        c->attributes[i].value = take_double(r);
    }
    c->n_tensors = take_count(r, ONNX_MOST_TENSORS);
    for (int64_t i = 0; i < c->n_tensors; i++) c->tensors[i] = take_tensor(r);
}

static char *read_file(const char *path, long *bytes) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (*bytes = ftell(file)) < 0) give_up(path, "cannot be read");
    rewind(file);
    char *content = malloc((size_t)*bytes + 1);
    if (content == NULL || fread(content, 1, (size_t)*bytes, file) != (size_t)*bytes) give_up(path, "cannot be read");
    fclose(file);
    return content;
}

onnx_cases onnx_cases_read(const char *path) {
    static const char magic[8] = {'M', 'H', 'A', 'O', 'N', 'N', 'X', '1'};
    long bytes = 0;
    onnx_cases all = {.file = read_file(path, &bytes)};
    reader r = {path, all.file, all.file + bytes};
    if (memcmp(take(&r, sizeof magic), magic, sizeof magic) != 0) give_up(path, "is no file of scripts/onnx_cases");
    all.n = take_count(&r, bytes);
    all.cases = calloc((size_t)all.n + 1, sizeof *all.cases);
    if (all.cases == NULL) give_up(path, "out of memory");
    for (int64_t i = 0; i < all.n; i++) take_case(&r, &all.cases[i]);
    if (r.at != r.end) give_up(path, "has more in it than its cases");
    return all;
}

void onnx_cases_free(onnx_cases *cases) {
    free(cases->cases);
    free(cases->file);
}

double onnx_case_attribute(const onnx_case *c, const char *name, double absent) {
    for (int64_t i = 0; i < c->n_attributes; i++)
        if (strcmp(c->attributes[i].name, name) == 0) return c->attributes[i].value;
    return absent;
}

const onnx_tensor *onnx_case_tensor(const onnx_case *c, const char *name) {
    for (int64_t i = 0; i < c->n_tensors; i++)
        if (strcmp(c->tensors[i].name, name) == 0) return &c->tensors[i];
    return NULL;
}
