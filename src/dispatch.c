/* Kernel rows and CPU features in, the kernels of a context out. */
#include "context.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct kernel_row {
    const mha_kernels *kernels;
    uint32_t features;
} kernel_row;

/* One row per instruction set as long as there is one data type. */
static const kernel_row rows[] = {
#define MHA_KERNEL_ROW(isa, dtype, features) {&mha_kernels_##dtype##_##isa, (features)},
#include "kernels.inc"
#undef MHA_KERNEL_ROW
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

static bool runs_on(const kernel_row *row, uint32_t cpu) { return (row->features & ~cpu) == 0; }

size_t mha_isa_list(mha_isa *isas, size_t capacity) {
    const uint32_t cpu = mha_cpu_detect();
    for (size_t i = 0; i < N_ROWS && i < capacity; i++)
        isas[i] = (mha_isa){.name = rows[i].kernels->isa, .supported = runs_on(&rows[i], cpu)};
    return N_ROWS;
}

size_t mha_cpu_features(char *text, size_t text_bytes) {
    static const struct {
        uint32_t feature;
        const char *name;
    } names[] = {
#define MHA_CPU_NAME(name, bit, text) {MHA_CPU_##name, text},
        MHA_CPU_FEATURES(MHA_CPU_NAME)
#undef MHA_CPU_NAME
    };
    const uint32_t cpu = mha_cpu_detect();
    size_t length = 0;
    if (text_bytes > 0) text[0] = '\0';
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if ((cpu & names[i].feature) == 0) continue;
        const size_t room = length < text_bytes ? text_bytes - length : 0;
        length += (size_t)snprintf(room > 0 ? text + length : NULL, room, "%s%s", length > 0 ? " " : "", names[i].name);
    }
    return length;
}

static mha_status choose_named(const char *source, const char *name, const mha_kernels **kernels, mha_message message) {
    const uint32_t cpu = mha_cpu_detect();
    for (int i = 0; i < N_ROWS; i++) {
        if (strcmp(rows[i].kernels->isa, name) != 0) continue;
        if (!runs_on(&rows[i], cpu))
            return mha_say(message, MHA_UNSUPPORTED,
                           "%s is \"%s\", which this CPU or operating system cannot run, expected one that "
                           "mha_isa_list reports as supported",
                           source, name);
        *kernels = rows[i].kernels;
        return MHA_OK;
    }
    char known[256] = "";
    for (int i = 0; i < N_ROWS; i++) {
        const size_t length = strlen(known);
        snprintf(known + length, sizeof known - length, "%s%s", i > 0 ? ", " : "", rows[i].kernels->isa);
    }
    return mha_say(message, MHA_INVALID_ARGUMENT, "%s is \"%s\", expected one of %s", source, name, known);
}

mha_status mha_choose_kernels(const char *isa, const mha_kernels **kernels, mha_message message) {
    if (isa != NULL) return choose_named("isa", isa, kernels, message);
    const char *environment = getenv("MHA_ISA");
    if (environment != NULL && environment[0] != '\0') return choose_named("MHA_ISA", environment, kernels, message);
    const uint32_t cpu = mha_cpu_detect();
    for (int i = 0; i < N_ROWS; i++)
        if (runs_on(&rows[i], cpu)) *kernels = rows[i].kernels;
    return MHA_OK;
}
