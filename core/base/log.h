/* Lines for people, on standard error. Library code uses it for notices and warnings only; errors are
 * returned (error.h). Level from $RWKV_LOG: error, warn, info (default), debug. */
#ifndef RW_BASE_LOG_H
#define RW_BASE_LOG_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { RW_LOG_ERROR, RW_LOG_WARN, RW_LOG_INFO, RW_LOG_DEBUG } rw_log_level;

void rw_log(rw_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void rw_log_set_level(rw_log_level level);
/* Called before and after each line, so that a progress bar can step aside; NULL: none. */
void rw_log_set_around(void (*before)(void *), void (*after)(void *), void *ctx);
/* The last use of them: `before` clears the line, and what is printed from now on stands alone. */
void rw_log_end_around(void);

#define rw_info(...)  rw_log(RW_LOG_INFO, __VA_ARGS__)
#define rw_warn(...)  rw_log(RW_LOG_WARN, __VA_ARGS__)
#define rw_debug(...) rw_log(RW_LOG_DEBUG, __VA_ARGS__)

#ifdef __cplusplus
}
#endif
#endif
