#include "context.h"

#include <inttypes.h>
#include <stdlib.h>

const char *mha_status_string(mha_status status) {
    switch (status) {
    case MHA_OK: return "success";
    case MHA_INVALID_ARGUMENT: return "invalid argument";
    case MHA_UNSUPPORTED: return "unsupported";
    case MHA_WORKSPACE_TOO_SMALL: return "workspace too small";
    case MHA_OUT_OF_MEMORY: return "out of memory";
    }
    return "unknown status";
}

const char *mha_version(void) {
    return MHA_TEXT(MHA_VERSION_MAJOR) "." MHA_TEXT(MHA_VERSION_MINOR) "." MHA_TEXT(MHA_VERSION_PATCH);
}

static void *default_allocate(void *user, size_t bytes) {
    (void)user;
    return malloc(bytes);
}

static void default_release(void *user, void *memory) {
    (void)user;
    free(memory);
}

static const mha_context_options default_options = {.struct_size = sizeof(mha_context_options)};

void mha_context_options_init(mha_context_options *options, size_t struct_size) {
    mha_init_struct(options, struct_size, &default_options, sizeof default_options);
}

mha_status mha_context_create(const mha_context_options *given, mha_context **context, char *text, size_t text_bytes) {
    const mha_message message = {text, text_bytes};
    if (context == NULL) return mha_say(message, MHA_INVALID_ARGUMENT, "context is NULL, expected a place for it");
    *context = NULL;

    mha_context_options options = default_options;
    mha_status status = MHA_OK;
    if (given != NULL) status = mha_read_struct(&options, sizeof options, given, "mha_context_options", message);
    if (status != MHA_OK) return status;
    if (options.exp != MHA_EXP_AUTO && options.exp != MHA_EXP_SLEEF && options.exp != MHA_EXP_FUSED)
        return mha_say(message, MHA_INVALID_ARGUMENT, "exp is %d, expected a value of mha_exp", (int)options.exp);
    if (options.precision > MHA_PRECISION_MEDIUM)
        return mha_say(message, MHA_INVALID_ARGUMENT, "precision is %d, expected a value of mha_precision",
                       (int)options.precision);
    if (options.reserved != 0)
        return mha_say(message, MHA_UNSUPPORTED,
                       "reserved is %" PRIu32 ", expected 0: the feature is newer than version %s", options.reserved,
                       mha_version());
    if ((options.allocator.allocate == NULL) != (options.allocator.release == NULL))
        return mha_say(message, MHA_INVALID_ARGUMENT,
                       "allocator has only one of allocate and release, expected both or neither");
    if (options.allocator.allocate == NULL)
        options.allocator = (mha_allocator){.allocate = default_allocate, .release = default_release};

    mha_choice choice;
    status = mha_choose_kernels(options.isa, &choice, message);
    if (status != MHA_OK) return status;

    mha_context *created = options.allocator.allocate(options.allocator.user, sizeof *created);
    if (created == NULL)
        return mha_say(message, MHA_OUT_OF_MEMORY, "allocate returned NULL for %zu bytes", sizeof *created);
    *created = (mha_context){.choice = choice,
                             .exp = options.exp == MHA_EXP_SLEEF ? 0 : 1,
                             .precision = options.precision,
                             .allocator = options.allocator};
    *context = created;
    return mha_succeed(message);
}

void mha_context_destroy(mha_context *context) {
    if (context == NULL) return;
    const mha_allocator allocator = context->allocator;
    allocator.release(allocator.user, context);
}

const char *mha_context_isa(const mha_context *context) { return context->choice.isa; }
