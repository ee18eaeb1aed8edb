/* The input up to the first 0xff byte is lines added to the 256 single bytes (ids 1 .. 256); what follows is text for
 * the vocabulary. Either an error, or decode(encode(text)) == text, in one go and in pieces. */
#include "core/base/alloc.h"
#include "core/data/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const rw_tokenizer *t, const uint8_t *text, size_t n) {
    uint16_t *part = rw_alloc_array(n + 1, sizeof *part);
    int32_t *ids = rw_alloc_array(n + 1, sizeof *ids);
    rw_str back = {0};
    if (!part || !ids) abort();
    size_t n_ids = rw_tokenizer_encode(t, text, n, ids), n_part;
    rw_tokenizer_decode(t, ids, n_ids, &back);
    if (back.len != n || (n && memcmp(back.data, text, n) != 0)) abort();
    rw_tokenizer_encode_part(t, text, n, part, &n_part);
    for (size_t i = 0; i < n_part; i++)
        if (i >= n_ids || part[i] != ids[i]) abort();
    rw_str_done(&back);
    rw_free(ids);
    rw_free(part);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *cut = size ? memchr(data, 0xff, size) : NULL;
    size_t n_lines = cut ? (size_t)(cut - data) : size;
    rw_error err = {0};
    rw_tokenizer *t;
    rw_str vocab = {0};
    for (int b = 0; b < 256; b++) rw_str_appendf(&vocab, "%d b'\\x%02x' 1\n", b + 1, b);
    rw_str_append_n(&vocab, data, n_lines);
    if (rw_tokenizer_parse(&t, "fuzz.txt", vocab.data, vocab.len, &err) == RW_OK) {
        check_text(t, data, n_lines);
        if (cut) check_text(t, cut + 1, size - n_lines - 1);
    }
    rw_error_clear(&err);
    rw_tokenizer_close(t);
    rw_str_done(&vocab);
    return 0;
}
