/* Where the golden files lie. Include after cmocka.h.
 *
 * The big set is $RWKV_GOLDEN, else ../shared/golden beside the source tree; a clone need not have it.
 * A test that asks for a file which is not there is skipped with a line that says so, or fails when
 * RWKV_REQUIRE_GOLDEN=1. The small set of this repository, tests/golden, is always there. */
#ifndef RW_TESTS_UNIT_GOLDEN_H
#define RW_TESTS_UNIT_GOLDEN_H

/* The folder of the big set, or NULL when there is none. */
const char *rw_golden_dir(void);

/* Path of a file or folder of the big set ("models", "pth/plain.pth"). When it is missing, this does not
 * return: the running cmocka test is skipped, or fails. The text stays valid until 16 further calls. */
const char *rw_golden_path(const char *relative);

/* Calls fn with each name in a folder of the big set ("models"), sorted; folders are not known by name, so that
 * another set of the same layout serves as well. Skips or fails as rw_golden_path() when the folder is missing. */
void rw_golden_each(const char *folder, void (*fn)(void *ctx, const char *name), void *ctx);
/* Says how well a folder of a set compares: `root` is rw_golden_dir() or the small set, `folder` relative to it. What
 * is said of the big set also goes to the file $RWKV_GOLDEN_LOG, where golden.covered looks for folders that no test
 * has read. */
void rw_golden_report(const char *root, const char *folder, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The World vocabulary: ../data beside the big set, else $RWKV_VOCAB, else ../shared/data. */
const char *rw_golden_vocab(void);

/* The same in tests/golden; always fails when missing. */
const char *rw_own_golden_path(const char *relative);

/* Path of a file of the source tree ("recipes/quickstart/recipe.yaml"); does not look whether it exists. */
const char *rw_source_path(const char *relative);

/* A new empty folder below $TMPDIR or /tmp for this process; removed with all it holds when it ends. */
const char *rw_test_folder(void);
/* Path of a file in that folder. */
const char *rw_test_path(const char *name);

#endif
