/* The thread that writes an audit log, without the interpreter: the specification is `Journal` in `wal.py`.

   Entries are copied into the chunk that gathers, which is the body of a frame as it stands, so that one write(2) puts a
   group on the disk. `lock` guards the queue and what is told; whoever holds it does nothing that waits. What the thread
   alone owns is the segment and the chunk that it has taken. */

#ifndef TG_WRITER_H
#define TG_WRITER_H

#include "segment.h"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>

enum { TG_BODY = 1 << 20, TG_MOST_BATCH = 2048, TG_PROBE = 256 << 10 };
enum { TG_TAKEN, TG_FULL, TG_CLOSED, TG_NO_MEMORY };

typedef struct tg_chunk {
    struct tg_chunk *next;
    size_t size;      /* bytes of the body */
    uint32_t count;   /* entries */
    int error;        /* how it ended */
    unsigned char frame[TG_HEADER + TG_BODY]; /* pages that were never written to take no memory */
} tg_chunk;

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    pid_t process;         /* 0: the thread was not started, or has ended */
    int strict, news_fd, done_fd;
    uint64_t linger_ns, retry_ns, most_queued, segment_bytes;

    tg_chunk *head, *tail; /* what is queued, the last of them gathers */
    tg_chunk *spare;
    tg_chunk *done_head, *done_tail; /* of a strict log: groups whose end nobody was told yet */
    uint64_t queued;       /* entries, without the group that is being written */
    int asleep, closing;

    int failing;           /* errno of what the disk refuses with, 0 while it does not */
    int unsealed;          /* errno of the last segment that could not be sealed */
    uint64_t written;      /* entries that are on the disk */
    uint64_t lost;         /* entries that were given up */

    tg_segment segment;
} tg_writer;

static uint64_t tg_monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void tg_ring(int fd) {
    uint64_t one = 1;
    /* It fails when the count is full, and then whoever reads it is woken all the same. */
    if (write(fd, &one, sizeof one) < 0) return;
}

/* With the lock: wait for `wake`, until `end` on the monotonic clock (0: for ever). */
static int tg_wait(tg_writer *it, uint64_t end) {
    struct timespec at = {(time_t)(end / 1000000000u), (long)(end % 1000000000u)};
    return end ? pthread_cond_timedwait(&it->wake, &it->lock, &at) : pthread_cond_wait(&it->wake, &it->lock);
}

/* With the lock: wait until `end` or the closing, whatever is queued meanwhile. */
static void tg_pause(tg_writer *it, uint64_t end) {
    while (!it->closing && tg_monotonic() < end) tg_wait(it, end);
}

static void tg_told(tg_writer *it, int error) {
    pthread_mutex_lock(&it->lock);
    int changed = it->failing != error;
    it->failing = error;
    pthread_mutex_unlock(&it->lock);
    if (changed) tg_ring(it->news_fd);
}

static void tg_sealed(tg_writer *it) {
    int error = tg_segment_seal(&it->segment);
    if (!error) return;
    pthread_mutex_lock(&it->lock);
    it->unsealed = error;
    pthread_mutex_unlock(&it->lock);
    tg_ring(it->news_fd);
}

/* Put a group on the disk. `in_file`: it can be read, so that writing it again would double it. */
static int tg_commit(tg_writer *it, tg_chunk *group, int *in_file) {
    int error = tg_segment_open(&it->segment);
    if (!error) error = tg_segment_append(&it->segment, group->frame, group->size);
    if (error) return error;
    *in_file = 1;
    error = tg_segment_sync(&it->segment);
    if (!error && it->segment.size >= it->segment_bytes) tg_sealed(it);
    return error;
}

/* With the lock: the oldest chunk, NULL when nothing is queued. */
static tg_chunk *tg_take(tg_writer *it) {
    tg_chunk *group = it->head;
    if (group) {
        it->head = group->next;
        if (!it->head) it->tail = NULL;
        group->next = NULL;
        it->queued -= group->count;
    }
    return group;
}

/* With the lock: keep one chunk for the next group. */
static void tg_give_back(tg_writer *it, tg_chunk *chunk) {
    if (it->spare) {
        free(chunk);
        return;
    }
    chunk->size = chunk->count = 0;
    chunk->error = 0;
    chunk->next = NULL;
    it->spare = chunk;
}

static void tg_finished(tg_writer *it, tg_chunk *group, int error, int in_file) {
    pthread_mutex_lock(&it->lock);
    if (!error) it->written += group->count;
    else if (!in_file) it->lost += group->count;
    if (it->strict) {
        group->error = error;
        if (it->done_tail) it->done_tail->next = group;
        else it->done_head = group;
        it->done_tail = group;
    } else {
        tg_give_back(it, group);
    }
    pthread_mutex_unlock(&it->lock);
    if (it->strict) tg_ring(it->done_fd);
}

static void tg_drain(tg_writer *it) {
    pthread_mutex_lock(&it->lock);
    int probe = it->failing && !it->head;
    /* Of an asynchronous log: what comes meanwhile gathers. */
    int64_t left = (int64_t)it->queued;
    pthread_mutex_unlock(&it->lock);
    if (probe) {
        int error = tg_segment_open(&it->segment);
        tg_told(it, error ? error : tg_segment_probe(&it->segment, TG_PROBE));
    }
    for (;;) {
        pthread_mutex_lock(&it->lock);
        tg_chunk *group = it->strict || it->closing || left > 0 ? tg_take(it) : NULL;
        pthread_mutex_unlock(&it->lock);
        if (!group) return;
        left -= group->count;
        for (;;) {
            int in_file = 0;
            pthread_mutex_lock(&it->lock);
            int last = it->closing;
            pthread_mutex_unlock(&it->lock);
            int error = tg_commit(it, group, &in_file);
            tg_told(it, error);
            if (!error || it->strict || last || in_file) {
                tg_finished(it, group, error, in_file);
                break;
            }
            pthread_mutex_lock(&it->lock);
            tg_pause(it, tg_monotonic() + it->retry_ns);
            pthread_mutex_unlock(&it->lock);
        }
    }
}

static void *tg_run(void *argument) {
    tg_writer *it = argument;
    uint64_t began = 0;
    int closing = 0;
    while (!closing) {
        pthread_mutex_lock(&it->lock);
        /* Between two groups it does not listen: what comes then gathers, and wakes nobody. */
        if (!it->strict) tg_pause(it, began + it->linger_ns);
        /* While it fails nobody may put anything, so that the disk has to be tried without. */
        uint64_t end = it->failing ? tg_monotonic() + it->retry_ns : 0;
        it->asleep = 1;
        while (!it->head && !it->closing && tg_wait(it, end) != ETIMEDOUT) {}
        it->asleep = 0;
        if (it->head) began = tg_monotonic();
        closing = it->closing;
        pthread_mutex_unlock(&it->lock);
        tg_drain(it);
    }
    if (it->segment.fd >= 0) tg_sealed(it);
    return NULL;
}

/* Open the first segment, then start the thread. An errno. */
static int tg_writer_start(tg_writer *it) {
    sigset_t all, before;
    int error = tg_segment_open(&it->segment);
    if (error) return error;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the interpreter's */
    error = pthread_create(&it->thread, NULL, tg_run, it);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!error) it->process = getpid();
    return error;
}

static int tg_writer_init(tg_writer *it) {
    pthread_condattr_t attributes;
    it->segment.fd = it->news_fd = it->done_fd = -1;
    pthread_mutex_init(&it->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&it->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    it->news_fd = eventfd(0, EFD_CLOEXEC);
    if (it->news_fd < 0) return errno;
    it->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return it->done_fd < 0 ? errno : 0;
}

static int tg_writer_put(tg_writer *it, const char *entry, size_t size) {
    int taken = TG_TAKEN, wake = 0;
    pthread_mutex_lock(&it->lock);
    tg_chunk *chunk = it->tail;
    if (it->closing) {
        taken = TG_CLOSED;
    } else if (it->queued >= it->most_queued) {
        taken = TG_FULL;
    } else if (!chunk || chunk->count == TG_MOST_BATCH || chunk->size + 2 + size > TG_BODY) {
        chunk = it->spare;
        it->spare = NULL;
        if (!chunk) chunk = malloc(sizeof *chunk);
        if (!chunk) {
            taken = TG_NO_MEMORY;
        } else {
            chunk->next = NULL;
            chunk->size = chunk->count = 0;
            chunk->error = 0;
            if (it->tail) it->tail->next = chunk;
            else it->head = chunk;
            it->tail = chunk;
        }
    }
    if (taken == TG_TAKEN) {
        unsigned char *at = chunk->frame + TG_HEADER + chunk->size;
        tg_big(at, size, 2);
        memcpy(at + 2, entry, size);
        chunk->size += 2 + size;
        chunk->count++;
        it->queued++;
        wake = it->asleep;
        it->asleep = 0;
    }
    pthread_mutex_unlock(&it->lock);
    if (wake) pthread_cond_signal(&it->wake); /* without the lock, which the woken wants at once */
    return taken;
}

/* Write what is queued, seal the segment, end the thread. 0, or ETIMEDOUT: it goes on by itself. */
static int tg_writer_close(tg_writer *it, uint64_t timeout_ns) {
    struct timespec at;
    pthread_mutex_lock(&it->lock);
    it->closing = 1;
    pthread_cond_signal(&it->wake);
    pthread_mutex_unlock(&it->lock);
    if (it->process != getpid()) return 0; /* a child of fork(2) has no such thread */
    uint64_t end = tg_now() + timeout_ns;
    at.tv_sec = (time_t)(end / 1000000000u);
    at.tv_nsec = (long)(end % 1000000000u);
    int error = pthread_timedjoin_np(it->thread, NULL, &at);
    if (!error) it->process = 0;
    return error;
}

/* The groups that ended since, oldest first: the caller frees each by `tg_writer_forget`. */
static tg_chunk *tg_writer_ended(tg_writer *it) {
    uint64_t count;
    /* Emptied before the groups are taken: what ends from here on rings again. */
    while (read(it->done_fd, &count, sizeof count) < 0 && errno == EINTR) {}
    pthread_mutex_lock(&it->lock);
    tg_chunk *ended = it->done_head;
    it->done_head = it->done_tail = NULL;
    pthread_mutex_unlock(&it->lock);
    return ended;
}

static void tg_writer_forget(tg_writer *it, tg_chunk *group) {
    pthread_mutex_lock(&it->lock);
    tg_give_back(it, group);
    pthread_mutex_unlock(&it->lock);
}

/* Once the thread has ended. */
static void tg_writer_free(tg_writer *it) {
    tg_chunk *lists[3] = {it->head, it->done_head, it->spare};
    for (int i = 0; i < 3; i++)
        for (tg_chunk *chunk = lists[i], *next; chunk; chunk = next) {
            next = chunk->next;
            free(chunk);
        }
    if (it->news_fd >= 0) close(it->news_fd);
    if (it->done_fd >= 0) close(it->done_fd);
    tg_segment_abandon(&it->segment);
    pthread_cond_destroy(&it->wake);
    pthread_mutex_destroy(&it->lock);
    free(it);
}

#endif
