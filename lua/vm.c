/* The virtual machine of Lua: memory, time, and the one way in.
 *
 * Memory. LuaJIT's own allocator takes pages from the system, not from malloc; it is kept, and wrapped in one
 * that counts and refuses. So scripts never compete with the engine's heap, and their heap has an end.
 *
 * Time. A count hook looks at the watchdog every 20 instructions: so few, because one instruction may be a
 * library call that works through all of the memory (milliseconds). Once time is up it raises at every
 * instruction, so that a pcall around an endless loop does not help. Count hooks do not fire in compiled code,
 * so the JIT is off unless the recipe says otherwise.
 *
 * Stack. A C function that calls back into Lua uses C stack, and LuaJIT sets no limit to that. So such functions and
 * the count hook measure how much is left, and raise while there is enough for an error.
 *
 * Limits: one call at a time; not for use by two threads at once. */
#include "lua/vm_internal.h"

#include "core/base/alloc.h"
#include "core/base/str.h"
#include "core/base/thread.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT_INSTRUCTIONS 20
#define SLOW_NS            5000000   /* so much for 20 instructions: one of them works through the memory */
#define STACK_LIMIT        (1 << 20) /* bytes of C stack for a call: LuaJIT takes time with the square of its depth */

/* Test settings; see vm.h. */
static int64_t fail_after;
static int64_t grace_ms = 10000;

void rw_lua_alloc_fail_after(int64_t n) {
    fail_after = n;
}
void rw_lua_set_grace(int64_t ms) {
    grace_ms = ms;
}

/* -- memory ---------------------------------------------------------------------------------------- */

static bool must_fail(void) {
    return fail_after > 0 && --fail_after == 0;
}

static void *counted(void *ud, void *p, size_t old_size, size_t new_size) {
    rw_lua *lua = ud;
    const int64_t more = (int64_t)new_size - (p ? (int64_t)old_size : 0);
    if (more > 0) {
        const int64_t limit = lua->plan->memory_bytes;
        if ((limit > 0 && lua->bytes + more > limit) || must_fail()) return NULL;
    }
    void *q = lua->inner(lua->inner_ud, p, old_size, new_size);
    if (!q && new_size > 0) return NULL;
    lua->bytes += more;
    if (lua->bytes > lua->peak) lua->peak = lua->bytes;
    return q;
}

int64_t rw_lua_bytes(const rw_lua *lua) {
    return lua->bytes;
}
int64_t rw_lua_peak(const rw_lua *lua) {
    return lua->peak;
}

rw_lua *rw_lua_of(lua_State *L) {
    void *ud = NULL;
    lua_getallocf(L, &ud);
    return ud;
}

/* -- time ------------------------------------------------------------------------------------------ */

/* Notes where the script is; its first note stays. */
static void note_place(lua_State *L, rw_lua_fault *fault);
static void on_count(lua_State *L, lua_Debug *ar);

static void raise_time(lua_State *L) {
    rw_lua *lua = rw_lua_of(L);
    if (!lua->fault.set) note_place(L, &lua->fault);
    luaL_error(L, rw_message("still running after %d ms"), (int)lua->watchdog.budget_ms);
}

void rw_lua_check_time(lua_State *L) {
    if (rw_lua_watchdog_expired(&rw_lua_of(L)->watchdog)) raise_time(L);
}

/* Once 20 instructions took long, the rest of the call is looked at after each one. */
static void count_closer(lua_State *L, rw_lua *lua) {
    const int64_t now = rw_now_ns();
    if (now - lua->counted_ns > SLOW_NS) lua_sethook(L, on_count, LUA_MASKCOUNT, 1);
    lua->counted_ns = now;
}

static void on_count(lua_State *L, lua_Debug *ar) {
    (void)ar;
    rw_lua *lua = rw_lua_of(L);
    rw_lua_check_stack(L);
    if (!rw_lua_watchdog_expired(&lua->watchdog)) {
        if (lua_gethookcount(L) > 1) count_closer(L, lua);
        return;
    }
    lua_sethook(L, on_count, LUA_MASKCOUNT, 1);
    raise_time(L);
}

/* -- stack ----------------------------------------------------------------------------------------- */

/* Where the stack of this thread ends, a quarter of it kept back for the library below us and for the error. */
static const char *measure_stack(const char *here) {
    pthread_attr_t attr;
    void *low;
    size_t size;
    const char *limit = here - STACK_LIMIT;
    if (pthread_getattr_np(pthread_self(), &attr) != 0) return limit;
    if (pthread_attr_getstack(&attr, &low, &size) == 0) {
        const char *end = (const char *)low + size / 4;
        if (end > limit) limit = end;
    }
    pthread_attr_destroy(&attr);
    return limit;
}

/* Measured once for the thread that calls: for the main thread this reads a file of /proc. */
static void note_stack(rw_lua *lua) {
    const pthread_t self = pthread_self();
    if (lua->stack_end && pthread_equal(self, lua->stack_thread)) return;
    lua->stack_thread = self;
    lua->stack_end = measure_stack(__builtin_frame_address(0));
}

void rw_lua_check_stack(lua_State *L) {
    if ((const char *)__builtin_frame_address(0) < rw_lua_of(L)->stack_end)
        luaL_error(L, rw_message("stack overflow: functions of Lua and of the library call each other too deeply"));
}

void rw_lua_check_call(lua_State *L) {
    rw_lua_check_stack(L);
    rw_lua_check_time(L);
}

/* -- errors ---------------------------------------------------------------------------------------- */

static void copy_text(char *to, size_t size, const char *from) {
    snprintf(to, size, "%s", from ? from : "");
}

/* "NAME:LINE: rest" with NAME as Lua shortens `file` -> the rest and *line; else the text itself. */
static const char *split_place(const char *text, const char *file, int *line) {
    const char *rest = strstr(text, ": ");
    const char *colon = rest;
    while (colon && colon > text && colon[-1] >= '0' && colon[-1] <= '9') colon--;
    if (!colon || colon == rest || colon == text || colon[-1] != ':') return text;
    size_t n = (size_t)(colon - 1 - text);
    const char *name = text;
    if (n > 3 && memcmp(name, "...", 3) == 0) { /* the end of a long path */
        name += 3;
        n -= 3;
    }
    const size_t n_file = strlen(file);
    if (n > n_file || memcmp(file + n_file - n, name, n) != 0) return text;
    *line = atoi(colon);
    return rest + 2;
}

/* The innermost line of a user's file. Modules of this program have chunk names without '@'. */
static void note_place(lua_State *L, rw_lua_fault *fault) {
    lua_Debug ar;
    for (int level = 0; level < 100 && lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (ar.currentline <= 0 || ar.source[0] != '@') continue;
        copy_text(fault->file, sizeof fault->file, ar.source + 1);
        fault->line = ar.currentline;
        return;
    }
}

/* "global 'io' (a nil value)": says what the sandbox leaves out. */
static const char *nil_hint(const char *msg, bool trust) {
    static const char *const absent[] = {"io",     "debug",   "package", "ffi",    "jit",      "loadstring", "load",
                                         "dofile", "setfenv", "dump",    "remove", "loadfile", "getfenv",    "execute",
                                         "popen",  "getenv",  "exit",    "rename", NULL};
    const char *end = strstr(msg, "' (a nil value)");
    if (trust || !end) return "";
    for (int i = 0; absent[i]; i++) {
        const size_t n = strlen(absent[i]);
        if ((size_t)(end - msg) > n && end[-(ptrdiff_t)n - 1] == '\'' && memcmp(end - n, absent[i], n) == 0)
            return rw_message("; scripts of a recipe may not use it, --trust allows it to your own");
    }
    return "";
}

static void note_message(rw_lua *lua, const char *text) {
    rw_lua_fault *fault = &lua->fault;
    const char *rest = split_place(text, fault->file, &fault->line);
    snprintf(fault->msg, sizeof fault->msg, "%.600s%s", rest, nil_hint(rest, lua->plan->trust));
    fault->set = true;
}

static const char *error_text(lua_State *L, int index, char *buf, size_t size) {
    if (lua_type(L, index) == LUA_TSTRING) return lua_tostring(L, index);
    if (lua_type(L, index) == LUA_TNUMBER)
        snprintf(buf, size, "%.14g", lua_tonumber(L, index));
    else
        snprintf(buf, size, rw_message("(the error is a %s, not a string)"), luaL_typename(L, index));
    return buf;
}

/* The message handler of every call: runs where the error was raised. */
static int on_error(lua_State *L) {
    rw_lua *lua = rw_lua_of(L);
    char buf[80];
    if (!lua->fault.file[0]) note_place(L, &lua->fault);
    note_message(lua, error_text(L, 1, buf, sizeof buf));
    luaL_traceback(L, L, NULL, 1);
    copy_text(lua->fault.trace, sizeof lua->fault.trace, lua_tostring(L, -1));
    lua_settop(L, 1);
    return 1;
}

/* The plan's own copy of a path, which outlives the error; NULL: it has none. */
static const char *plan_path(const rw_plan_lua *plan, const char *file) {
    for (int i = 0; i < plan->n_files; i++)
        if (strcmp(plan->files[i], file) == 0) return plan->files[i];
    return NULL;
}

/* The traceback under a heading in the user's language, but for a last line "[C]: at 0x...": the C function that
 * entered, of no use to anyone. */
static void set_detail(const char *trace, rw_error *err) {
    static const char entry_line[] = "\n\t[C]: at 0x", heading[] = "stack traceback:";
    char text[sizeof((rw_lua_fault *)0)->trace + 32];
    bool headed = strncmp(trace, heading, sizeof heading - 1) == 0;
    snprintf(text, sizeof text, "%s%s", headed ? rw_message("stack traceback:") : "",
             headed ? trace + sizeof heading - 1 : trace);
    char *last = strrchr(text, '\n');
    if (last && strncmp(last, entry_line, sizeof entry_line - 1) == 0) *last = '\0';
    if (text[0]) rw_error_set_detail(err, text);
}

/* A message about the file itself begins with its name, which the place says already. */
static const char *without_name(const char *msg, const char *file) {
    const size_t n = strlen(file);
    return n > 0 && strncmp(msg, file, n) == 0 && strncmp(msg + n, ": ", 2) == 0 ? msg + n + 2 : msg;
}

static rw_status fail_with(const rw_lua *lua, const rw_lua_job *job, rw_status code, const char *msg, rw_error *err) {
    const rw_lua_fault *fault = &lua->fault;
    const char *file = fault->file[0] ? fault->file : job->file ? job->file : "";
    const int line = fault->file[0] ? fault->line : job->line;
    const rw_where at = {.file = plan_path(lua->plan, file), .line = line};
    char place[560] = "", hook[96] = "";
    if (!at.file && file[0]) snprintf(place, sizeof place, line > 0 ? "%.500s:%d: " : "%.500s: ", file, line);
    if (job->hook)
        snprintf(hook, sizeof hook, rw_message("%.48s at step %lld: "), job->hook,
                 (long long)job->step + 1); /* as on the console */
    rw_fail(err, code, at.file ? at : RW_AT_NONE, "%s%s%s", place, hook, without_name(msg, file));
    set_detail(fault->trace, err);
    return code;
}

static rw_status fail_time(const rw_lua *lua, const rw_lua_job *job, rw_error *err) {
    char msg[200];
    snprintf(msg, sizeof msg,
             rw_message("stopped after running for %lld ms; if the script needs longer, raise lua.budget_ms"),
             (long long)lua->watchdog.budget_ms);
    return fail_with(lua, job, RW_E_LUA, msg, err);
}

static rw_status fail_lua_memory(const rw_lua *lua, const rw_lua_job *job, rw_error *err) {
    char msg[200], bytes[32];
    if (lua->plan->memory_bytes <= 0) return fail_with(lua, job, RW_E_MEMORY, rw_message("not enough memory"), err);
    snprintf(msg, sizeof msg, rw_message("the scripts need more memory than lua.memory_mb allows (%s)"),
             rw_format_bytes(bytes, sizeof bytes, lua->plan->memory_bytes));
    return fail_with(lua, job, RW_E_LUA, msg, err);
}

/* An error that crossed a coroutine is only its text. */
static bool is_memory_error(const rw_lua *lua, int status) {
    return status == LUA_ERRMEM || (lua->fault.set && strcmp(lua->fault.msg, "not enough memory") == 0);
}

static rw_status fail_call(rw_lua *lua, const rw_lua_job *job, int status, rw_error *err) {
    if (rw_lua_watchdog_expired(&lua->watchdog)) return fail_time(lua, job, err);
    if (is_memory_error(lua, status)) return fail_lua_memory(lua, job, err);
    if (!lua->fault.set) {
        char buf[80];
        if (job->file && !lua->fault.file[0]) {
            copy_text(lua->fault.file, sizeof lua->fault.file, job->file);
            lua->fault.line = job->line;
        }
        note_message(lua, error_text(lua->L, -1, buf, sizeof buf));
    }
    return fail_with(lua, job, RW_E_LUA, lua->fault.msg, err);
}

/* -- calls ----------------------------------------------------------------------------------------- */

typedef struct {
    rw_lua_job *job;
    int status; /* of the script; what push and take raise leaves through lua_cpcall */
} entry;

/* [entry] */
static int enter(lua_State *L) {
    entry *e = lua_touserdata(L, 1);
    lua_pushcfunction(L, on_error);
    const int n_args = e->job->push(L, e->job);
    e->status = lua_pcall(L, n_args, 1, 2);
    if (e->status == LUA_ERRMEM) return luaL_error(L, rw_message("not enough memory"));
    if (e->status != 0) return lua_error(L);
    if (e->job->take) e->job->take(L, e->job);
    return 0;
}

/* A function of its own, because even a collection may raise. */
static int collect(lua_State *L) {
    lua_gc(L, LUA_GCCOLLECT, 0);
    return 0;
}

rw_status rw_lua_call(rw_lua *lua, rw_lua_job *job, rw_error *err) {
    lua_State *L = lua->L;
    const int top = lua_gettop(L);
    entry e = {.job = job};
    lua->fault.set = false;
    lua->fault.file[0] = lua->fault.trace[0] = '\0';
    lua->fault.line = 0;
    lua->call++;
    note_stack(lua);
    lua->counted_ns = rw_now_ns();
    rw_lua_watchdog_begin(&lua->watchdog, job->hook ? job->hook : job->file ? job->file : rw_message("a script"));
    lua_sethook(L, on_count, LUA_MASKCOUNT, COUNT_INSTRUCTIONS);
    const int status = lua_cpcall(L, enter, &e);
    lua_sethook(L, NULL, 0, 0);
    rw_lua_watchdog_end(&lua->watchdog);
    lua->call++;
    rw_status result = RW_OK;
    if (status != 0) result = fail_call(lua, job, e.status == LUA_ERRMEM ? e.status : status, err);
    lua_settop(L, top);
    if (status != 0) { /* what filled the heap must not fail the next call */
        lua_cpcall(L, collect, NULL);
        lua_settop(L, top);
    }
    return result;
}

/* -- life ------------------------------------------------------------------------------------------ */

static void count_memory(rw_lua *lua) {
    lua->bytes = (int64_t)lua_gc(lua->L, LUA_GCCOUNT, 0) * 1024 + lua_gc(lua->L, LUA_GCCOUNTB, 0);
    lua->inner = lua_getallocf(lua->L, &lua->inner_ud);
    lua_setallocf(lua->L, counted, lua);
}

rw_status rw_lua_vm_new(rw_lua **out, const rw_plan_lua *plan, rw_error *err) {
    *out = NULL;
    rw_lua *lua = rw_alloc(sizeof *lua);
    if (!lua) return rw_fail_memory(err, sizeof *lua);
    lua->plan = plan;
    lua->begun_ns = rw_now_ns();
    lua->L = luaL_newstate();
    if (!lua->L) {
        rw_free(lua);
        return rw_fail(err, RW_E_MEMORY, RW_AT_NONE, "not enough memory for Lua");
    }
    count_memory(lua);
    const rw_status status = rw_lua_watchdog_start(&lua->watchdog, plan->budget_ms, plan->trust ? 0 : grace_ms, err);
    if (status != RW_OK)
        rw_lua_free(lua);
    else
        *out = lua;
    return status;
}

void rw_lua_free(rw_lua *lua) {
    if (!lua) return;
    rw_lua_watchdog_stop(&lua->watchdog);
    lua_setallocf(lua->L, lua->inner, lua->inner_ud); /* LuaJIT gives its pages back only to its own */
    lua_close(lua->L);
    rw_free(lua->refs);
    rw_free(lua);
}
