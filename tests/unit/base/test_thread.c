/* Threads and limits: made-up control groups of both versions, and the real ones of this machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/cgroup.h"
#include "core/base/fs.h"
#include "core/base/thread.h"
#include "tests/unit/golden.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void put(const char *name, const char *text) {
    char *dir = rw_path_dir(rw_test_path(name));
    rw_error err = {0};
    if (rw_mkdir_all(dir, &err) != RW_OK) fail_msg("%s", err.msg);
    if (rw_write_file(rw_test_path(name), text, (int64_t)strlen(text), &err) != RW_OK) fail_msg("%s", err.msg);
    rw_free(dir);
}

static void version_2(void **state) {
    (void)state;
    put("v2/slice/job/cpu.max", "max 100000\n");
    put("v2/slice/cpu.max", "250000 100000\n");
    put("v2/cpu.max", "400000 100000\n");
    put("v2/wide/cpu.max", "800000 100000\n");
    put("v2/slice/job/memory.max", "max\n");
    put("v2/memory.max", "1073741824\n");
    const char *root = rw_test_path("v2");
    assert_int_equal(rw_cgroup_cpus("0::/slice/job\n", root), 3); /* 2.5 rounded up; the group above is stricter */
    assert_int_equal(rw_cgroup_cpus("0::/\n", root), 4);
    assert_int_equal(rw_cgroup_cpus("0::/wide\n", root), 4);
    assert_int_equal(rw_cgroup_cpus("0::/elsewhere/not/visible\n", root), 4);
    assert_int_equal(rw_cgroup_memory("0::/slice/job\n", root), 1 << 30);
}

static void version_1(void **state) {
    (void)state;
    put("v1/cpu/docker/x/cpu.cfs_quota_us", "150000\n");
    put("v1/cpu/docker/x/cpu.cfs_period_us", "100000\n");
    put("v1/cpu/cpu.cfs_quota_us", "-1\n");
    put("v1/cpu/cpu.cfs_period_us", "100000\n");
    put("v1/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("v1/memory/docker/x/memory.limit_in_bytes", "2147483648\n");
    const char *self = "5:cpuset:/a\n4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n0::/\n", *root = rw_test_path("v1");
    assert_int_equal(rw_cgroup_cpus(self, root), 2);
    assert_int_equal(rw_cgroup_memory(self, root), 2147483648);
    assert_int_equal(rw_cgroup_cpus("4:cpu,cpuacct:/\n", root), 0);
    assert_int_equal(rw_cgroup_memory("3:memory:/\n", root), 0);
}

static void nonsense_is_no_limit(void **state) {
    (void)state;
    const char *root = rw_test_path("none");
    static const char *const texts[] = {"", "\n", ":::", "0::", "0", "cpu", "0::/../..\n", "1:cpu\n"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        assert_int_equal(rw_cgroup_cpus(texts[i], root), 0);
        assert_int_equal(rw_cgroup_memory(texts[i], root), 0);
    }
    put("bad/cpu.max", "1 0\n");
    put("bad/memory.max", "many\n");
    assert_int_equal(rw_cgroup_cpus("0::/\n", rw_test_path("bad")), 0);
    assert_int_equal(rw_cgroup_memory("0::/\n", rw_test_path("bad")), 0);
}

static void this_machine(void **state) {
    (void)state;
    unsetenv("RWKV_THREADS");
    int n = rw_cpu_count();
    assert_in_range(n, 1, sysconf(_SC_NPROCESSORS_CONF));
    setenv("RWKV_THREADS", "3", 1);
    assert_int_equal(rw_cpu_count(), 3);
    setenv("RWKV_THREADS", "many", 1);
    assert_int_equal(rw_cpu_count(), n);
    assert_true(rw_memory_limit() > 1 << 24);
    int64_t before = rw_now_ns();
    usleep(2000);
    assert_in_range(rw_now_ns() - before, 1500000, 10000000000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_2),
        cmocka_unit_test(version_1),
        cmocka_unit_test(nonsense_is_no_limit),
        cmocka_unit_test(this_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
