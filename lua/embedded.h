/* The Lua files of lua/rwkv, compiled into the program: rwkv/schedule.lua is the row "rwkv.schedule".
 * Made at build time by lua/embed.cmake. The table is sorted by path and ends with a NULL name. */
#ifndef RW_LUA_EMBEDDED_H
#define RW_LUA_EMBEDDED_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct rw_lua_embedded {
    const char *name; /* as require() takes it                  */
    const char *text; /* source, NUL-terminated                 */
    size_t n;         /* bytes of text without the final NUL    */
};

extern const struct rw_lua_embedded rw_lua_embedded[];

#ifdef __cplusplus
}
#endif
#endif
