/* Counts the calls that reach the disk, of Python and of SQLite alike, and kills the process at one of them.
   LD_PRELOAD; `arm(n, after)` says at which, and whether before it is done or after. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static long left = 0, seen = 0;
static int late = 0;

void arm(long n, int after) { left = n; seen = 0; late = after; }
long counted(void) { return seen; }

static int due(void) { seen++; return left > 0 && --left == 0; }

#define STEP(type, name, parameters, arguments)                          \
    type name parameters {                                               \
        static type (*real) parameters;                                  \
        if (!real) real = (type (*) parameters) dlsym(RTLD_NEXT, #name); \
        int now = due();                                                 \
        if (now && !late) kill(getpid(), SIGKILL);                       \
        type result = real arguments;                                    \
        if (now) kill(getpid(), SIGKILL);                                \
        return result;                                                   \
    }

STEP(ssize_t, write, (int f, const void *b, size_t n), (f, b, n))
STEP(ssize_t, pwrite, (int f, const void *b, size_t n, off_t o), (f, b, n, o))
STEP(ssize_t, pwrite64, (int f, const void *b, size_t n, off64_t o), (f, b, n, o))
STEP(int, fsync, (int f), (f))
STEP(int, fdatasync, (int f), (f))
STEP(int, ftruncate, (int f, off_t n), (f, n))
STEP(int, ftruncate64, (int f, off64_t n), (f, n))
STEP(int, rename, (const char *a, const char *b), (a, b))
STEP(int, unlink, (const char *a), (a))
STEP(int, link, (const char *a, const char *b), (a, b))
STEP(int, linkat, (int a, const char *b, int c, const char *d, int e), (a, b, c, d, e))
STEP(int, mkdir, (const char *a, mode_t m), (a, m))
