/* Preloaded (LD_PRELOAD): the calls by which a write-ahead segment reaches the disk, made to fail, to take half, or to
   be the process's last. It sees both writers, the one in C and the one in Python, and nothing outside of a folder
   called `wal`. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { BEFORE, AFTER, TORN };
static char failing[32];
static volatile int code, half, stuck;
static volatile long times, steps, last_step = -1;
static volatile int last_how;

/* The next `count` calls of that name fail with `error`; `halves`: a write takes half before it does, and with 2 that
   half cannot be taken back. */
void faults_fail(const char *call, int error, long count, int halves) {
    times = 0;
    snprintf(failing, sizeof failing, "%s", call);
    code = error;
    half = halves > 0;
    stuck = halves > 1;
    times = count;
}

long faults_left(void) { return times; }

/* The process ends at step `step`, from 1. */
void faults_kill(long step, int how) {
    steps = 0;
    last_how = how;
    last_step = step;
}

long faults_steps(void) { return steps; }

long faults_stuck(void) { return stuck; }

static int ours(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return strstr(path, "/wal/") || (size > 4 && !strcmp(path + size - 4, "/wal"));
}

/* Whether the call is to fail. */
static int fails(const char *call) {
    if (stuck && !strcmp(call, "ftruncate")) {
        stuck = 0;
        errno = EIO;
        return 1;
    }
    if (times <= 0 || strcmp(call, failing)) return 0;
    times--;
    errno = code;
    return 1;
}

static int step(void) {
    int last = ++steps == last_step;
    if (last && last_how == BEFORE) kill(getpid(), SIGKILL);
    return last;
}

static void stepped(int last) {
    if (last) kill(getpid(), SIGKILL);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t size) {
    if (!ours(fd)) return REAL(write)(fd, data, size);
    if (times > 0 && half && !strcmp(failing, "write")) {
        half = 0;
        return REAL(write)(fd, data, size / 2);
    }
    if (fails("write")) return -1;
    int last = step();
    ssize_t taken = REAL(write)(fd, data, last && last_how == TORN ? size / 2 : size);
    stepped(last);
    return taken;
}

#define SIMPLE(name, parameters, arguments, mine)      \
    int name parameters {                              \
        if (!(mine)) return REAL(name) arguments;      \
        if (fails(#name)) return -1;                   \
        int last = step();                             \
        int result = REAL(name) arguments;             \
        int error = errno;                             \
        stepped(last);                                 \
        errno = error;                                 \
        return result;                                 \
    }

SIMPLE(fdatasync, (int fd), (fd), ours(fd))
SIMPLE(fsync, (int fd), (fd), ours(fd))
SIMPLE(rename, (const char *from, const char *to), (from, to), strstr(to, "/wal/") != NULL)
SIMPLE(ftruncate, (int fd, off_t size), (fd, size), ours(fd))
int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }
