/* What people really have in place of UTF-8 text, and the command that makes UTF-8 of it. */
#ifndef RW_DATA_TEXT_KIND_H
#define RW_DATA_TEXT_KIND_H

#include "core/base/error.h"
#include "core/base/fs.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Refuses a file whose first bytes are those of gzip, zip, UTF-16, ...: E_DATA. Other bytes are not judged here. */
rw_status rw_text_kind_check(const rw_file *f, rw_error *err);
/* E_DATA at `at`, whose file is there: bytes[n] begin with one that is not UTF-8, number `offset` of the file. Says GBK
 * where they look like it. */
rw_status rw_text_fail_utf8(rw_where at, const void *bytes, size_t n, int64_t offset, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
