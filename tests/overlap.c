#include "overlap.h"
#include "test.h"

#include <stdio.h>
#include <string.h>

static char *pointer_of(const void *call, const overlap_operand *operand) {
    char *pointer;
    memcpy(&pointer, (const char *)call + operand->pointer, sizeof pointer);
    return pointer;
}

static void set_pointer(void *call, const overlap_operand *operand, char *pointer) {
    memcpy((char *)call + operand->pointer, &pointer, sizeof pointer);
}

static size_t room(const overlap_operand *operand) { return (operand->bytes + 63) / 64 * 64 + OVERLAP_MARGIN; }

guard overlap_place(const overlap_operand *operands, size_t n, void *call) {
    size_t bytes = OVERLAP_MARGIN;
    for (size_t i = 0; i < n; i++) bytes += room(&operands[i]);
    guard memory = guard_make(bytes, GUARD_START, 0);
    memset(memory.data, 0, bytes);
    char *at = memory.data + OVERLAP_MARGIN;
    for (size_t i = 0; i < n; i++) {
        if (!operands[i].stay) assert_in_range(operands[i].bytes, 1, OVERLAP_MARGIN / 2);
        set_pointer(call, &operands[i], at);
        at += room(&operands[i]);
    }
    return memory;
}

static bool says(const char *message, const char *a, const char *b) {
    char first[64], second[64];
    snprintf(first, sizeof first, "%s lies at", a);
    snprintf(second, sizeof second, "intersects %s", b != NULL ? b : "");
    return strstr(message, first) != NULL && strstr(message, second) != NULL;
}

void overlap_check_refused(const char *isa, const char *what, mha_status status, const char *message, const char *a,
                           const char *b, const guard *memory) {
    ptrdiff_t offset;
    if (status != MHA_INVALID_ARGUMENT)
        fail_msg("isa %s: %s: returned \"%s\", wanted a refusal: \"%s\"", isa, what, mha_status_string(status),
                 message);
    if (!says(message, a, b) && (b == NULL || !says(message, b, a)))
        fail_msg("isa %s: %s: wanted %s and %s in \"%s\"", isa, what, a, b != NULL ? b : "another", message);
    if (guard_changed(memory, &offset))
        fail_msg("isa %s: %s: was refused, but wrote to byte %td of the operands", isa, what, offset);
}

/* Where an operand of so many bytes lies, that begins or ends with one element on [first, end), or beside it. */
static char *beside(char *first, char *end, const overlap_operand *moved, bool above, bool onto) {
    const uintptr_t alignment = moved->alignment;
    if (!above) return first - moved->bytes + (onto ? alignment : 0);
    return onto ? end - 1 - (uintptr_t)(end - 1) % alignment
                : end + (alignment - (uintptr_t)end % alignment) % alignment;
}

static void check_pair(const char *isa, const overlap_operand *moved, const overlap_operand *other, void *call,
                       guard *memory, mha_status (*run)(const void *call, char message[256])) {
    char *const home = pointer_of(call, moved), *const first = pointer_of(call, other);
    for (int i = 0; i < 4; i++) {
        const bool above = (i & 1) != 0, onto = (i & 2) != 0;
        char message[256], what[128];
        char *at = beside(first, first + other->bytes, moved, above, onto);
        snprintf(what, sizeof what, "%s %s the %s of %s", moved->name, onto ? "on" : "beside", above ? "end" : "start",
                 other->name);
        set_pointer(call, moved, at);
        if (!moved->output) memset(at, 0, moved->bytes);
        guard_remember(memory);
        const mha_status status = run(call, message);
        if (onto) overlap_check_refused(isa, what, status, message, moved->name, other->name, memory);
        else if (status != MHA_OK) fail_msg("isa %s: %s: refused: \"%s\"", isa, what, message);
    }
    set_pointer(call, moved, home);
}

void overlap_check(const char *isa, const overlap_operand *operands, size_t n, void *call, guard *memory,
                   mha_status (*run)(const void *call, char message[256])) {
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            if (i != j && !operands[i].stay && (operands[i].output || operands[j].output))
                check_pair(isa, &operands[i], &operands[j], call, memory, run);
}
