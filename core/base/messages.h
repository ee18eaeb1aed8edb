/* What the program says, in the user's language.
 *
 * A message is known by its English text. Each folder lists its own in messages.def; the build joins the lists into
 * rw_message_rows (CMakeLists.txt), so that no folder has to know another. */
#ifndef RW_BASE_MESSAGES_H
#define RW_BASE_MESSAGES_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define RW_FORMAT_ARG __attribute__((format_arg(1))) /* printf formats are checked through rw_message() */
#else
#define RW_FORMAT_ARG
#endif

struct rw_message_row {
    const char *english, *chinese;
};
extern const struct rw_message_row rw_message_rows[]; /* ends with a row of NULLs */

/* The user's language for messages: "en" or "zh". Read once from RWKV_LANG, LC_ALL, LC_MESSAGES, LANG. */
const char *rw_language(void);
/* The text in the user's language, or `english` itself when there is no translation. */
const char *rw_message(const char *english) RW_FORMAT_ARG;
/* Whether both formats have the same conversions in the same order, so that one can stand for the other. */
bool rw_message_fits(const char *english, const char *translation);
/* For the test of messages.def: 0, or the number of the first row that does not fit. */
int rw_messages_check(void);

#ifdef __cplusplus
}
#endif
#endif
