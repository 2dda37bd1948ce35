/* One write-ahead segment being written, byte for byte as `segments.py` says: the specification is its `Segment`.
   Every function is 0 or an errno; none needs the interpreter. */

#ifndef TG_SEGMENT_H
#define TG_SEGMENT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

enum { TG_HEADER = 28, TG_MOST_PATH = 4096 };

typedef struct {
    char folder[TG_MOST_PATH];
    int fd;            /* -1: there is none, or it was let go */
    uint64_t named;    /* moment in the last segment's name: names rise, and are never used twice */
    uint64_t size;     /* bytes of whole frames */
    uint64_t durable;  /* of them those that are known to be on the disk */
    uint64_t stamp;    /* of the last frame */
} tg_segment;

static uint32_t tg_crc_table[8][256];

/* CRC-32 as zlib's (ISO 3309, reflected polynomial EDB88320), eight bytes a step. */
static void tg_crc_begin(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? 0xEDB88320u : 0);
        tg_crc_table[0][i] = crc;
    }
    for (int row = 1; row < 8; row++)
        for (int i = 0; i < 256; i++) {
            uint32_t crc = tg_crc_table[row - 1][i];
            tg_crc_table[row][i] = (crc >> 8) ^ tg_crc_table[0][crc & 255];
        }
}

static uint32_t tg_crc(uint32_t crc, const unsigned char *data, size_t size) {
    crc = ~crc;
    for (; size >= 8; size -= 8, data += 8) {
        uint32_t low = crc ^ ((uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
                              (uint32_t)data[3] << 24);
        crc = tg_crc_table[7][low & 255] ^ tg_crc_table[6][low >> 8 & 255] ^ tg_crc_table[5][low >> 16 & 255] ^
              tg_crc_table[4][low >> 24] ^ tg_crc_table[3][data[4]] ^ tg_crc_table[2][data[5]] ^
              tg_crc_table[1][data[6]] ^ tg_crc_table[0][data[7]];
    }
    for (; size; size--, data++) crc = (crc >> 8) ^ tg_crc_table[0][(crc ^ *data) & 255];
    return ~crc;
}

static void tg_big(unsigned char *out, uint64_t value, int bytes) {
    for (int i = bytes - 1; i >= 0; i--, value >>= 8) out[i] = (unsigned char)value;
}

static uint64_t tg_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The header of a frame whose body lies behind it. A clock that was set back does not turn the order round. */
static void tg_frame(tg_segment *it, unsigned char *frame, const char *magic, size_t body) {
    unsigned char facts[24];
    uint64_t now = tg_now();
    it->stamp = now > it->stamp ? now : it->stamp + 1;
    memcpy(facts, magic, 4);
    tg_big(facts + 4, body, 4);
    tg_big(facts + 8, it->durable, 8);
    tg_big(facts + 16, it->stamp, 8);
    memcpy(frame, facts, 8);
    tg_big(frame + 8, tg_crc(tg_crc(0, facts, 24), frame + TG_HEADER, body), 4);
    memcpy(frame + 12, facts + 8, 16);
}

/* write(2) may take fewer, on a disk that is nearly full. */
static int tg_write_all(int fd, const unsigned char *data, size_t size) {
    while (size) {
        ssize_t taken = write(fd, data, size);
        if (taken < 0) {
            if (errno == EINTR) continue;
            return errno;
        }
        if (taken == 0) return ENOSPC;
        data += taken;
        size -= (size_t)taken;
    }
    return 0;
}

static int tg_fdatasync(int fd) {
    while (fdatasync(fd)) {
        if (errno != EINTR) return errno;
    }
    return 0;
}

/* Let go of it as it is; the sequencer takes it as final. */
static void tg_segment_abandon(tg_segment *it) {
    if (it->fd >= 0) close(it->fd);
    it->fd = -1;
}

static int tg_sync_folder(const char *folder) {
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), error = 0;
    if (fd < 0) return errno;
    if (fsync(fd)) error = errno;
    close(fd);
    return error;
}

/* A new segment, unless there is one, whose name sorts behind that of the last. */
static int tg_segment_open(tg_segment *it) {
    char path[TG_MOST_PATH + 64], aside[TG_MOST_PATH + 72];
    uint32_t chance;
    uint64_t named = tg_now();
    int error = 0;
    if (it->fd >= 0) return 0;
    if (getrandom(&chance, sizeof chance, 0) != (ssize_t)sizeof chance) return EAGAIN;
    if (named <= it->named) named = it->named + 1;
    snprintf(path, sizeof path, "%s/%016llx-%08x.wal", it->folder, (unsigned long long)named, chance);
    snprintf(aside, sizeof aside, "%s.tmp", path);
    int fd = open(aside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return errno;
    while (!error && flock(fd, LOCK_EX)) error = errno == EINTR ? 0 : errno;
    if (!error && rename(aside, path)) error = errno;
    if (!error) error = tg_sync_folder(it->folder);
    if (error) {
        close(fd);
        return error;
    }
    it->fd = fd;
    it->named = named;
    it->size = it->durable = it->stamp = 0;
    return 0;
}

/* Write one batch, whose body lies TG_HEADER bytes behind `frame`; it is not durable yet. On an error nothing of it is
   left, or the segment is let go. */
static int tg_segment_append(tg_segment *it, unsigned char *frame, size_t body) {
    tg_frame(it, frame, "TGw1", body);
    int error = tg_write_all(it->fd, frame, TG_HEADER + body);
    if (error) {
        if (ftruncate(it->fd, (off_t)it->size) || lseek(it->fd, (off_t)it->size, SEEK_SET) < 0) tg_segment_abandon(it);
        return error;
    }
    it->size += TG_HEADER + body;
    return 0;
}

/* Every batch is on the disk; on an error it is not known what is. A second sync would say that all is well, so that
   the segment is let go. */
static int tg_segment_sync(tg_segment *it) {
    int error = tg_fdatasync(it->fd);
    if (error) {
        tg_segment_abandon(it);
        return error;
    }
    it->durable = it->size;
    return 0;
}

/* Ask whether the disk has room again, by taking it and giving it back. */
static int tg_segment_probe(tg_segment *it, off_t bytes) {
    int error = posix_fallocate(it->fd, (off_t)it->size, bytes);
    if (ftruncate(it->fd, (off_t)it->size) && !error) error = errno;
    return error ? error : tg_segment_sync(it);
}

/* End the segment in good order; it is let go on an error too. */
static int tg_segment_seal(tg_segment *it) {
    unsigned char frame[TG_HEADER];
    it->durable = it->size;
    tg_frame(it, frame, "TGwE", 0);
    int error = tg_write_all(it->fd, frame, TG_HEADER);
    if (!error) error = tg_fdatasync(it->fd);
    tg_segment_abandon(it);
    return error;
}

#endif
