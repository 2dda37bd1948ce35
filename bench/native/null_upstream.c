/* An HTTP/1.1 server that answers from a tape, as fast as one thread can: null_upstream TAPE.

   The tape holds entries `METHOD PATH\nLENGTH\n` and LENGTH bytes, a whole response. A request is answered by the
   entry of its request line, an unknown one with 404 (and named on standard error). Bodies with a Content-Length are
   read and thrown away; chunked ones are not understood. Connections stay open. Prints its port, then serves. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ENTRIES = 64, EVENTS = 256, FIRST = 16384 };

struct entry {
    char *line;
    size_t line_length;
    char *data;
    size_t length;
};

struct connection {
    int fd;
    char *data;
    size_t used, size;
};

static struct entry tape[ENTRIES];
static int entries;
static const char MISSING[] =
    "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 21\r\n\r\n{\"error\":\"not taped\"}";

static void fail(const char *what) {
    perror(what);
    exit(2);
}

static void *checked(void *memory) {
    if (memory == NULL) fail("memory");
    return memory;
}

static void read_tape(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) fail(path);
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    while (entries < ENTRIES && (length = getline(&line, &room, file)) > 1) {
        struct entry *one = &tape[entries++];
        line[length - 1] = ' '; /* as it stands before HTTP/1.1 */
        one->line = checked(strdup(line));
        one->line_length = (size_t)length;
        if (getline(&line, &room, file) < 0) fail(path);
        one->length = strtoul(line, NULL, 10);
        one->data = checked(malloc(one->length));
        if (fread(one->data, 1, one->length, file) != one->length) fail(path);
    }
    free(line);
    fclose(file);
}

/* 0: the connection is broken. */
static int send_all(int fd, const char *data, size_t length) {
    while (length) {
        ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd wait = {fd, POLLOUT, 0};
            poll(&wait, 1, 1000);
        } else if (sent < 0) {
            return 0;
        } else {
            data += sent;
            length -= (size_t)sent;
        }
    }
    return 1;
}

static int answer(int fd, const char *head) {
    for (int i = 0; i < entries; i++)
        if (memcmp(head, tape[i].line, tape[i].line_length) == 0) return send_all(fd, tape[i].data, tape[i].length);
    fprintf(stderr, "not on the tape: %.*s\n", (int)strcspn(head, "\r"), head);
    return send_all(fd, MISSING, sizeof MISSING - 1);
}

/* Every whole request that has come. 0: the connection is broken. */
static int serve(struct connection *c) {
    size_t at = 0;
    for (;;) {
        char *begin = c->data + at;
        c->data[c->used] = '\0';
        char *end = memmem(begin, c->used - at, "\r\n\r\n", 4);
        if (end == NULL) break;
        size_t body = 0;
        for (char *line = begin; line < end;) {
            char *next = memmem(line, (size_t)(end + 2 - line), "\r\n", 2);
            if (strncasecmp(line, "content-length:", 15) == 0) body = strtoul(line + 15, NULL, 10);
            line = next + 2;
        }
        size_t whole = (size_t)(end + 4 - begin) + body;
        if (c->used - at < whole) {
            if (whole + 1 > c->size) {
                c->size = whole + FIRST;
                c->data = checked(realloc(c->data, c->size));
            }
            break;
        }
        if (!answer(c->fd, begin)) return 0;
        at += whole;
    }
    memmove(c->data, c->data + at, c->used - at);
    c->used -= at;
    return c->used + 1 < c->size;
}

static void readable(struct connection *c) {
    ssize_t got = recv(c->fd, c->data + c->used, c->size - c->used - 1, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got > 0) {
        c->used += (size_t)got;
        if (serve(c)) return;
    }
    close(c->fd);
    free(c->data);
    free(c);
}

int main(int count, char **words) {
    if (count != 2) {
        fprintf(stderr, "usage: null_upstream TAPE\n");
        return 2;
    }
    read_tape(words[1]);
    int door = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (door < 0 || bind(door, (struct sockaddr *)&address, length) || listen(door, 1024)) fail("listen");
    getsockname(door, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    int poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, found[EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, door, &event);
    for (;;) {
        int ready = epoll_wait(poller, found, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            if (found[i].data.ptr != NULL) {
                readable(found[i].data.ptr);
                continue;
            }
            int fd = accept4(door, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (fd < 0) continue;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            struct connection *c = checked(calloc(1, sizeof *c));
            *c = (struct connection){fd, checked(malloc(FIRST)), 0, FIRST};
            event = (struct epoll_event){.events = EPOLLIN, .data.ptr = c};
            epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
        }
    }
}
