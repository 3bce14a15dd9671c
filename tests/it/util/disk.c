/*
 * A disk between the program and the system, for LD_PRELOAD: it records what reaches the store's files
 * and the sockets, and fails on demand.
 *
 * DISK_DIRECTORY names a directory. In it, `log` gets a record for every write, truncation and sync of
 * a file named *.db or *.db-wal, every sync of a directory, and the beginning of every HTTP response.
 * While a file of one of these names exists there, the disk
 *   no-space   takes no writes of the store's files: ENOSPC, or half of the bytes and then ENOSPC
 *   bad-sync   fails syncs with EIO
 *   bad-database-sync  the same, but for syncs of databases only
 *   no-sync    acknowledges syncs and does not do them, as with synchronous=OFF
 *
 * What a record is about has happened when it is written, but for responses, which are recorded before
 * they are sent, and for the beginning of a sync.
 */
#define _GNU_SOURCE
#define _LARGEFILE64_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { WRITE = 1, TRUNCATE, SYNC_BEGUN, SYNC_DONE, SYNC_FAILED, RESPONSE };
enum file { OTHER = 0, DATABASE, WAL, DIRECTORY, SOCKET };

struct record {
    uint64_t kind, file, offset, length;
};

/* As much of a response as holds its status line and its headers. */
#define RESPONSE_BYTES 1024

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, #name)

static const char *directory(void) {
    const char *directory = getenv("DISK_DIRECTORY");
    return directory ? directory : "/nonexistent";
}

static int is_set(const char *flag) {
    char path[4096];
    int saved = errno;
    snprintf(path, sizeof path, "%s/%s", directory(), flag);
    int set = access(path, F_OK) == 0;
    errno = saved;
    return set;
}

static int ends_with(const char *text, const char *end) {
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

static enum file file_of(int fd) {
    char link[64], path[4096];
    struct stat status;
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    enum file file = OTHER;
    if (strncmp(path, "socket:", 7) == 0) file = SOCKET;
    else if (ends_with(path, ".db")) file = DATABASE;
    else if (ends_with(path, ".db-wal")) file = WAL;
    else if (path[0] == '/' && fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)) file = DIRECTORY;
    errno = saved;
    return file;
}

static void record(enum kind kind, enum file file, uint64_t offset, const void *data, uint64_t length) {
    REAL(writev);
    int saved = errno;
    pthread_mutex_lock(&lock);
    if (log_fd < 0) {
        char path[4096];
        snprintf(path, sizeof path, "%s/log", directory());
        log_fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (log_fd < 0) abort();
    }
    struct record head = {kind, file, offset, length};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)data, data ? length : 0}};
    ssize_t expected = (ssize_t)(sizeof head + parts[1].iov_len);
    if (real(log_fd, parts, 2) != expected) abort();
    pthread_mutex_unlock(&lock);
    errno = saved;
}

static void record_response(int fd, const void *data, size_t length) {
    if (length >= 9 && memcmp(data, "HTTP/1.1 ", 9) == 0 && file_of(fd) == SOCKET)
        record(RESPONSE, SOCKET, (uint64_t)fd, data, length < RESPONSE_BYTES ? length : RESPONSE_BYTES);
}

/* How many of the bytes may be written: less than all where the disk is full. */
static size_t room(enum file file, size_t length) {
    static int calls;
    if ((file != DATABASE && file != WAL) || !is_set("no-space")) return length;
    return __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED) % 2 ? 0 : length / 2;
}

#define PWRITE(name, offset_type) \
    ssize_t name(int fd, const void *data, size_t length, offset_type offset) { \
        REAL(name); \
        enum file file = file_of(fd); \
        size_t bytes = room(file, length); \
        if (bytes == 0 && length > 0) return errno = ENOSPC, -1; \
        ssize_t written = real(fd, data, bytes, offset); \
        if (written > 0 && (file == DATABASE || file == WAL)) \
            record(WRITE, file, (uint64_t)offset, data, (uint64_t)written); \
        return written; \
    }

PWRITE(pwrite, off_t)
#ifndef pwrite64
PWRITE(pwrite64, off64_t)
#endif

ssize_t write(int fd, const void *data, size_t length) {
    REAL(write);
    enum file file = file_of(fd);
    if (file == DATABASE || file == WAL) {
        off_t offset = lseek(fd, 0, SEEK_CUR);
        size_t bytes = room(file, length);
        if (bytes == 0 && length > 0) return errno = ENOSPC, -1;
        ssize_t written = real(fd, data, bytes);
        if (written > 0) record(WRITE, file, (uint64_t)offset, data, (uint64_t)written);
        return written;
    }
    record_response(fd, data, length);
    return real(fd, data, length);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    if (count > 0) {
        char head[RESPONSE_BYTES];
        size_t length = 0;
        for (int part = 0; part < count && length < sizeof head; part++) {
            size_t left = sizeof head - length;
            size_t bytes = parts[part].iov_len < left ? parts[part].iov_len : left;
            memcpy(head + length, parts[part].iov_base, bytes);
            length += bytes;
        }
        record_response(fd, head, length);
    }
    return real(fd, parts, count);
}

ssize_t send(int fd, const void *data, size_t length, int flags) {
    REAL(send);
    record_response(fd, data, length);
    return real(fd, data, length, flags);
}

ssize_t sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t size) {
    REAL(sendto);
    record_response(fd, data, length);
    return real(fd, data, length, flags, to, size);
}

#define FTRUNCATE(name, offset_type) \
    int name(int fd, offset_type length) { \
        REAL(name); \
        enum file file = file_of(fd); \
        int result = real(fd, length); \
        if (result == 0 && (file == DATABASE || file == WAL)) \
            record(TRUNCATE, file, (uint64_t)length, NULL, 0); \
        return result; \
    }

FTRUNCATE(ftruncate, off_t)
#ifndef ftruncate64
FTRUNCATE(ftruncate64, off64_t)
#endif

#define SYNC(name) \
    int name(int fd) { \
        REAL(name); \
        enum file file = file_of(fd); \
        if (file != DATABASE && file != WAL && file != DIRECTORY) return real(fd); \
        if (is_set("bad-sync") || (file == DATABASE && is_set("bad-database-sync"))) { \
            record(SYNC_FAILED, file, 0, NULL, 0); \
            return errno = EIO, -1; \
        } \
        record(SYNC_BEGUN, file, 0, NULL, 0); \
        if (is_set("no-sync")) return 0; \
        int result = real(fd); \
        record(result == 0 ? SYNC_DONE : SYNC_FAILED, file, 0, NULL, 0); \
        return result; \
    }

SYNC(fsync)
SYNC(fdatasync)
