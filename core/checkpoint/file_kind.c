/* What people really have in place of a model, and what to do about each. */
#include "core/base/str.h"
#include "core/checkpoint/retention.h"
#include "core/checkpoint/tensor_file_internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool begins(const char *head, int64_t n, const char *with) {
    return n >= (int64_t)strlen(with) && !strncasecmp(head, with, strlen(with));
}

static bool is_html(const char *head, int64_t n) {
    int64_t skip = begins(head, n, "\xef\xbb\xbf") ? 3 : 0;
    while (skip < n && strchr(" \t\r\n", head[skip])) skip++;
    head += skip;
    n -= skip;
    return begins(head, n, "<!doctype") || begins(head, n, "<html") || begins(head, n, "<head") ||
           begins(head, n, "<!--") || begins(head, n, "<?xml");
}

static bool all_zero(const char *head, int64_t n) {
    while (n && !head[n - 1]) n--;
    return n == 0;
}

/* "Entry not found", "Invalid username or password.": what servers answer in place of a file. */
static bool is_short_text(const char *head, int64_t n, int64_t n_bytes) {
    if (n_bytes > 200 || n < n_bytes || rw_utf8_valid_prefix(head, (size_t)n) != (size_t)n) return false;
    for (int64_t i = 0; i < n; i++)
        if ((unsigned char)head[i] < ' ' && head[i] != '\n' && head[i] != '\r' && head[i] != '\t') return false;
    return true;
}

static rw_status fail_html(const rw_file *f, rw_error *err) {
    return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->path),
                   "this is a web page (HTML, %lld bytes), not a model: the link led to the page about the file. On "
                   "Hugging Face and ModelScope, replace /blob/ in the link with /resolve/, for example `wget -c "
                   "https://huggingface.co/OWNER/REPOSITORY/resolve/main/NAME.pth`",
                   (long long)f->n_bytes);
}

/* "version https://git-lfs.github.com/spec/v1\noid sha256:...\nsize 3200000000\n" */
static rw_status fail_lfs(const rw_file *f, const char *head, int64_t n, rw_error *err) {
    char text[256];
    size_t length = (size_t)n < sizeof text - 1 ? (size_t)n : sizeof text - 1;
    memcpy(text, head, length);
    text[length] = 0;
    const char *size = strstr(text, "\nsize ");
    return rw_fail(
        err, RW_E_FORMAT, RW_AT_FILE(f->path),
        "this is a git-lfs pointer of %lld bytes, not the model of %lld bytes itself: run `git lfs install && git lfs "
        "pull` in the cloned repository, or download the file from its /resolve/ link with `wget -c URL`",
        (long long)f->n_bytes, size ? strtoll(size + 6, NULL, 10) : 0LL);
}

static const struct {
    const char *begins, *what;
} known[] = {
    {"GGUF", "this is a GGUF file (llama.cpp); expected the official .pth or a .safetensors of the same model"},
    {"fmgg", "this is a ggml file (rwkv.cpp); expected the official .pth or a .safetensors of the same model"},
    {"lmgg", "this is a ggml file; expected the official .pth or a .safetensors of the same model"},
    {"\x1f\x8b", "this is a gzip archive; unpack it first"},
    {"7z\xbc\xaf", "this is a 7z archive; unpack it first"},
    {"Rar!", "this is a rar archive; unpack it first"},
    {"\xfd"
     "7zXZ",
     "this is an xz archive; unpack it first"},
    {"\x28\xb5\x2f\xfd", "this is a zstd archive; unpack it first"},
    {"MMIDIDX", "this is the .idx of a data set, not a model"},
    {"{", "this is JSON, perhaps an error message from a server; read it, then download the model again"},
    {"\x80\x04", "this is a Python pickle of protocol 4; load it in Python and save the state_dict again without "
                 "pickle_protocol"},
    {"\x80\x05", "this is a Python pickle of protocol 5; load it in Python and save the state_dict again without "
                 "pickle_protocol"},
    {"\x80",
     "this is a Python pickle, but not one written by torch.save; load it in Python and save the state_dict again"},
};

const char *rw_file_advice(const rw_file *f, const char *of_download) {
    return rw_checkpoint_is_save(f->path) ? rw_message("a run wrote it: take another of its saves") : of_download;
}

rw_status rw_file_kind_fail(const rw_file *f, const char *head, int64_t n, rw_error *err) {
    rw_where at = RW_AT_FILE(f->path);
    if (f->n_bytes == 0)
        return rw_fail(err, RW_E_FORMAT, at, "the file is empty (0 bytes); %s",
                       rw_file_advice(f, rw_message("download it again")));
    if (is_html(head, n)) return fail_html(f, err);
    if (begins(head, n, "version https://git-lfs")) return fail_lfs(f, head, n, err);
    if (all_zero(head, n))
        return rw_fail(err, RW_E_FORMAT, at, "the file begins with zeros: space was reserved and not filled; %s",
                       rw_file_advice(f, rw_message("download it again")));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (begins(head, n, known[i].begins)) return rw_fail(err, RW_E_FORMAT, at, "%s", rw_message(known[i].what));
    if (is_short_text(head, n, f->n_bytes))
        return rw_fail(err, RW_E_FORMAT, at,
                       "this is %lld bytes of text, not a model: '%.*s'; if a server sent it, check the link and "
                       "download the model again",
                       (long long)f->n_bytes, (int)n, head);
    return rw_fail(err, RW_E_FORMAT, at, "neither a .pth (torch.save) nor a .safetensors; is this the right file?");
}
