/* Any bytes as a .jsonl file: documents or an error, and every document is valid UTF-8. */
#include "core/data/jsonl.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    rw_jsonl r;
    rw_error err = {0};
    const char *text;
    size_t n;
    if (rw_jsonl_open_memory(&r, "fuzz.jsonl", (const char *)data, size, &err) != RW_OK) return 0;
    while (rw_jsonl_next(&r, &text, &n, &err) == RW_OK && text)
        if (rw_utf8_valid_prefix(text, n) != n) abort();
    char message[2048];
    if (err.code != RW_OK) rw_error_format(&err, message, sizeof message);
    rw_error_clear(&err);
    rw_jsonl_close(&r);
    return 0;
}
