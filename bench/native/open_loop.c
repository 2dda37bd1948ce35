/* Open-loop load over HTTP/1.1: requests are sent when their time has come, whether or not earlier ones were answered.

     open_loop PORT REQUEST RATE SECONDS WARM CONNECTIONS SEED

   Sends the file REQUEST to 127.0.0.1:PORT at Poisson times, RATE a second for WARM + SECONDS; what was planned in the
   first WARM seconds is not judged. A request waits when all connections are busy. Its latency counts from the time
   that was planned, so that neither a late client nor a full connection hides what it waited (wrk2's "coordinated
   omission"). Prints `requests errors p50 p99 p99.9 max late`, in microseconds; `late` is the 99th percentile of
   how late the client itself was when a connection was free. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1024, ROOM = 65536 };

struct connection {
    double planned; /* of the request under way */
    int busy;
    size_t used;
    char data[ROOM];
};

static struct connection connections[MOST];
static struct pollfd polled[MOST];
static double *latencies, *lateness;
static size_t judged, late_count, errors;

static void fail(const char *what) {
    perror(what);
    exit(2);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double at(const double *sorted, size_t count, double share) {
    if (count == 0) return 0;
    size_t index = (size_t)((double)count * share);
    return sorted[index < count ? index : count - 1] * 1e6;
}

/* Bytes of the whole answer, 0 while its head has not come; *ok: it is a 200. */
static size_t whole(struct connection *c, int *ok) {
    c->data[c->used] = '\0';
    char *end = memmem(c->data, c->used, "\r\n\r\n", 4);
    if (end == NULL) return 0;
    *ok = strncmp(c->data + 9, "200", 3) == 0;
    char *length = strcasestr(c->data, "\r\ncontent-length:");
    size_t body = length != NULL && length < end ? strtoul(length + 17, NULL, 10) : 0;
    return (size_t)(end + 4 - c->data) + body;
}

static void connect_one(int index, int port) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((unsigned short)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    polled[index] = (struct pollfd){fd, POLLIN, 0};
}

int main(int count, char **words) {
    static char request[1 << 20];
    if (count != 8) {
        fprintf(stderr, "usage: open_loop PORT REQUEST RATE SECONDS WARM CONNECTIONS SEED\n");
        return 2;
    }
    FILE *file = fopen(words[2], "rb");
    if (file == NULL) fail(words[2]);
    size_t size = fread(request, 1, sizeof request, file);
    fclose(file);
    double rate = atof(words[3]), warm = atof(words[5]), end = warm + atof(words[4]);
    int many = atoi(words[6]);
    if (many < 1 || many > MOST || rate <= 0) {
        fprintf(stderr, "CONNECTIONS from 1 to %d, RATE above 0\n", MOST);
        return 2;
    }
    size_t room = (size_t)(rate * end * 1.5) + 10000;
    latencies = malloc(room * sizeof *latencies);
    lateness = malloc(room * sizeof *lateness);
    if (latencies == NULL || lateness == NULL) fail("memory");
    srand48(atol(words[7]));
    prctl(PR_SET_TIMERSLACK, 1UL);
    for (int i = 0; i < many; i++) connect_one(i, atoi(words[1]));
    double began = now(), planned = -log1p(-drand48()) / rate;
    int busy = 0, waited = 0, next = 0;
    while (planned < end || busy) {
        double t = now() - began;
        while (planned < end && planned <= t && busy < many) {
            while (connections[next].busy) next = (next + 1) % many;
            struct connection *c = &connections[next];
            c->busy = 1;
            c->used = 0;
            c->planned = planned;
            if (send(polled[next].fd, request, size, MSG_NOSIGNAL) != (ssize_t)size) fail("send");
            if (!waited && planned >= warm && late_count < room) lateness[late_count++] = now() - began - planned;
            busy++;
            waited = 0;
            planned += -log1p(-drand48()) / rate;
            t = now() - began;
        }
        if (planned <= t) waited = 1; /* every connection is busy: that is not the client's own lateness */
        double wait = busy == many || planned >= end ? 20.0 : planned - t;
        struct timespec pause = {(time_t)wait, (long)((wait - (double)(time_t)wait) * 1e9)};
        int ready = ppoll(polled, (nfds_t)many, &pause, NULL);
        if (ready == 0 && wait >= 20.0) {
            fprintf(stderr, "no answer for 20 s\n");
            return 1;
        }
        for (int i = 0; ready > 0 && i < many; i++) {
            if (!polled[i].revents) continue;
            ready--;
            struct connection *c = &connections[i];
            ssize_t got = recv(polled[i].fd, c->data + c->used, ROOM - c->used - 1, MSG_DONTWAIT);
            if (got < 0 && errno == EAGAIN) continue;
            if (got <= 0 || !c->busy) {
                fprintf(stderr, "a connection was closed\n");
                return 1;
            }
            c->used += (size_t)got;
            int ok = 0;
            size_t length = whole(c, &ok);
            if (length == 0 || c->used < length) continue;
            if (c->planned >= warm && judged < room) latencies[judged++] = now() - began - c->planned;
            errors += !ok;
            c->busy = 0;
            busy--;
        }
    }
    qsort(latencies, judged, sizeof *latencies, by_value);
    qsort(lateness, late_count, sizeof *lateness, by_value);
    printf("%zu %zu %.1f %.1f %.1f %.1f %.1f\n", judged, errors, at(latencies, judged, 0.5),
           at(latencies, judged, 0.99), at(latencies, judged, 0.999), at(latencies, judged, 1.0),
           at(lateness, late_count, 0.99));
    return 0;
}
