#include "mistake.h"
#include "test.h"

#include <string.h>

void mistake_make(const mistake *m, void *fields) { memcpy((char *)fields + m->offset, &m->bits, m->bytes); }

void mistake_check(const mistake *m, mha_status status, const char *message) {
    if (status != m->status)
        fail_msg("%s: returned \"%s\", wanted \"%s\": \"%s\"", m->what, mha_status_string(status),
                 mha_status_string(m->status), message);
    for (size_t i = 0; i < COUNT(m->words); i++)
        if (m->words[i] != NULL && strstr(message, m->words[i]) == NULL)
            fail_msg("%s: wanted \"%s\" in \"%s\"", m->what, m->words[i], message);
}
