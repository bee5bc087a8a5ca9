/* Attention calls by the calling thread that do not fail the test when they are refused. */
#ifndef TESTS_CALL_H
#define TESTS_CALL_H

#include "mha/mha.h"

/* Fails the test unless mha_attention returns what mha_attention_check said. */
mha_status call_in(const mha_context *context, const mha_attention_args *args, void *workspace, size_t bytes,
                   char message[256]);

/* In a workspace that is large enough for small problems. */
mha_status call(const mha_context *context, const mha_attention_args *args, char message[256]);

#endif
