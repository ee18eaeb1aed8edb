/* Recognised by first bytes; GBK, which has none of its own, by how the bytes pair up. */
#include "core/data/text_kind.h"

#include <string.h>

#define HEAD 4096 /* bytes that are looked at */

/* -- by the first bytes ------------------------------------------------------------------------------ */

static const struct {
    const char *begins;
    int n;
    const char *what, *filter; /* reads the file, writes text */
} kinds[] = {
    {"\x1f\x8b", 2, "gzip", "zcat"},
    {"PK\3\4", 4, "zip", "funzip"},
    {"\x28\xb5\x2f\xfd", 4, "zstd", "zstd -dc"},
    {"\xfd\x37zXZ", 5, "xz", "xz -dc"},
    {"BZh", 3, "bzip2", "bzip2 -dc"},
    {"\xff\xfe\0\0", 4, "UTF-32", "iconv -f UTF-32 -t UTF-8"}, /* before UTF-16, which begins the same */
    {"\0\0\xfe\xff", 4, "UTF-32", "iconv -f UTF-32 -t UTF-8"},
    {"\xff\xfe", 2, "UTF-16", "iconv -f UTF-16 -t UTF-8"},
    {"\xfe\xff", 2, "UTF-16", "iconv -f UTF-16 -t UTF-8"},
};

static rw_status fail_kind(const rw_file *f, const char *what, const char *filter, rw_error *err) {
    return rw_fail(err, RW_E_DATA, RW_AT_FILE(f->path), "this is %s, expected UTF-8 text; first run: %s < '%s' > NEW",
                   what, filter, f->path);
}

/* Two letters of ASCII with a zero byte beside each: UTF-16 without its mark. */
static const char *bare_utf16(const unsigned char *p, int64_t n) {
    if (n >= 4 && p[0] && !p[1] && p[2] && !p[3]) return "UTF-16LE";
    if (n >= 4 && !p[0] && p[1] && !p[2] && p[3]) return "UTF-16BE";
    return NULL;
}

rw_status rw_text_kind_check(const rw_file *f, rw_error *err) {
    unsigned char head[8];
    int64_t n = f->n_bytes < (int64_t)sizeof head ? f->n_bytes : (int64_t)sizeof head;
    RW_TRY(rw_file_read_at(f, 0, head, n, err));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (n >= kinds[i].n && !memcmp(head, kinds[i].begins, (size_t)kinds[i].n))
            return fail_kind(f, kinds[i].what, kinds[i].filter, err);
    const char *utf16 = bare_utf16(head, n);
    if (utf16)
        return fail_kind(f, utf16, utf16[6] == 'L' ? "iconv -f UTF-16LE -t UTF-8" : "iconv -f UTF-16BE -t UTF-8", err);
    return RW_OK;
}

/* -- GBK ---------------------------------------------------------------------------------------------- */

/* Length of the character at p in GB18030; 0: none. One that n cuts is believed. */
static size_t gb_length(const unsigned char *p, size_t n) {
    if (p[0] < 0x80) return 1;
    if (p[0] == 0x80 || p[0] == 0xff) return 0;
    if (n == 1) return 1;
    if (p[1] >= 0x40 && p[1] != 0x7f && p[1] != 0xff) return 2;
    return p[1] >= 0x30 && p[1] <= 0x39 ? (n < 4 ? n : 4) : 0;
}

/* Every byte fits, there are two characters at least, and most of what is not ASCII are the characters and marks of GB
 * 2312 (rows 1 to 9, 16 to 87). */
static bool looks_like_gbk(const unsigned char *p, size_t n) {
    size_t common = 0, others = 0, length;
    if (n > HEAD) n = HEAD;
    for (size_t i = 0; i < n; i += length) {
        length = gb_length(p + i, n - i);
        if (length == 0) return false;
        if (length == 1) continue;
        bool row = (p[i] >= 0xa1 && p[i] <= 0xa9) || (p[i] >= 0xb0 && p[i] <= 0xf7);
        if (length == 2 && row && p[i + 1] >= 0xa1)
            common++;
        else
            others++;
    }
    return common >= 2 && common >= 4 * others;
}

rw_status rw_text_fail_utf8(rw_where at, const void *bytes, size_t n, int64_t offset, rw_error *err) {
    const unsigned char *p = bytes;
    if (looks_like_gbk(p, n))
        return rw_fail(err, RW_E_DATA, at,
                       "byte %lld (0x%02x) is not UTF-8; it looks like GBK; first run: iconv -f GB18030 -t UTF-8 < "
                       "'%s' > NEW",
                       (long long)offset, p[0], at.file);
    return rw_fail(err, RW_E_DATA, at,
                   "byte %lld (0x%02x) is not valid UTF-8; if the file has another encoding, iconv converts it",
                   (long long)offset, p[0]);
}
