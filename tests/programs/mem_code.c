/*
 * Code that the program made itself, as just-in-time compilers do: a page written and then made executable,
 * and one memfd mapped twice, writable here and executable there. The thread is in such code when it is
 * checkpointed.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#ifdef __x86_64__
/* mov $imm32,%eax; ret */
static const unsigned char code[] = {0xb8, 0x2a, 0, 0, 0, 0xc3};
/* loop: inc %rax; cmpl $0,(%rdi); je loop; ret */
static const unsigned char loop[] = {0x48, 0xff, 0xc0, 0x83, 0x3f, 0x00, 0x74, 0xf8, 0xc3};
#define HAVE_CODE 1
#else
static const unsigned char code[1], loop[1];
#define HAVE_CODE 0
#endif

static atomic_int stop;
static long (*spin)(atomic_int *);

static void *spinner(void *arg)
{
    (void)arg;
    spin(&stop);
    return "done";
}

int main(int argc, char **argv)
{
    unsigned char *jit, *writable, *executable;
    pthread_t thread;
    void *result = NULL;
    int fd;

    check_init(argc, argv);
    if (!HAVE_CODE)
        check_skip("no machine code for this architecture here");
    jit = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(jit);
    memcpy(jit, code, sizeof(code));
    memcpy(jit + 64, loop, sizeof(loop));
    MUST(mprotect(jit, 4096, PROT_READ | PROT_EXEC));
    fd = (int)MUST(memfd_create("jit", MFD_CLOEXEC));
    MUST(ftruncate(fd, 4096));
    writable = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    executable = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    MUST(writable);
    MUST(executable);
    close(fd);
    memcpy(writable, code, sizeof(code));
    spin = (long (*)(atomic_int *))(uintptr_t)(jit + 64);
    pthread_create(&thread, NULL, spinner, NULL);

    check_wait();

    if (check_broken())
        writable[1]++;
    check_num(42, ((int (*)(void))(uintptr_t)jit)(), "what the private code returns");
    check_num(42, ((int (*)(void))(uintptr_t)executable)(), "what the shared code returns");
    writable[1] = 43;
    check_num(43, ((int (*)(void))(uintptr_t)executable)(), "what the shared code returns after a change");
    atomic_store(&stop, 1);
    pthread_join(thread, &result);
    check_str("done", result ? result : "(nothing)", "result of the thread that was in made code");
    return check_end();
}
