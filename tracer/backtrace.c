/* Backtraces of stopped threads by libunwind-ptrace: for images, and for dmtcp_command --bt. */
#include <libunwind-ptrace.h>
#include <stddef.h>

#include "tracer/backtrace.h"

#define MAX_FRAMES 64

int backtrace_thread(pid_t tid, backtrace_frame frame, void *arg)
{
    unw_addr_space_t as = unw_create_addr_space(&_UPT_accessors, 0);
    void *upt = as ? _UPT_create(tid) : NULL;
    unw_cursor_t cursor;
    int n = 0;

    if (upt && unw_init_remote(&cursor, as, upt) == 0) {
        do {
            unw_word_t ip = 0, off = 0;
            char name[256] = "";
            unw_get_reg(&cursor, UNW_REG_IP, &ip);
            if (!ip)
                break;
            if (unw_get_proc_name(&cursor, name, sizeof(name), &off) < 0 && !name[0])
                off = 0;
            frame(arg, n, ip, name, off);
        } while (++n < MAX_FRAMES && unw_step(&cursor) > 0);
    }
    if (upt)
        _UPT_destroy(upt);
    if (as)
        unw_destroy_addr_space(as);
    return n;
}
