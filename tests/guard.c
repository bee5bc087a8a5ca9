#define _DEFAULT_SOURCE
#include "guard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

guard guard_make(size_t bytes, guard_side side, size_t shift) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    guard g = {.bytes = bytes};
    g.usable_bytes = (bytes + shift + page - 1) / page * page;
    g.mapped = g.usable_bytes + 2 * page;
    g.mapping = mmap(NULL, g.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g.mapping == MAP_FAILED) abort();
    g.usable = g.mapping + page;
    if (g.usable_bytes > 0) {
        if (mprotect(g.usable, g.usable_bytes, PROT_READ | PROT_WRITE) != 0) abort();
        memset(g.usable, 0xff, g.usable_bytes);
    }
    if (bytes > 0) g.data = side == GUARD_END ? g.usable + g.usable_bytes - bytes : g.usable + shift;
    return g;
}

void guard_free(guard *g) {
    if (g->mapping != NULL) munmap(g->mapping, g->mapped);
    free(g->snapshot);
    *g = (guard){0};
}

void guard_remember(guard *g) {
    if (g->usable_bytes == 0) return;
    if (g->snapshot == NULL) g->snapshot = malloc(g->usable_bytes);
    if (g->snapshot == NULL) abort();
    memcpy(g->snapshot, g->usable, g->usable_bytes);
}

void guard_forgive(guard *g, void *element, size_t bytes) {
    memcpy(element, g->snapshot + ((char *)element - g->usable), bytes);
}

bool guard_changed(const guard *g, ptrdiff_t *offset) {
    if (g->usable_bytes == 0 || memcmp(g->usable, g->snapshot, g->usable_bytes) == 0) return false;
    size_t i = 0;
    while (g->usable[i] == g->snapshot[i]) i++;
    *offset = g->usable + i - g->data;
    return true;
}
