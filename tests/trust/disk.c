/* Stands between a process and its disk (LD_PRELOAD): records what it does to the files below a folder, or fails
   what would need space.

   TRUST_ROOT     folder whose files are meant
   TRUST_LOG      file to which records are appended: kind, inode, offset, length of name, length of data; name; data
   TRUST_LATE     piece of a path: syncs of such files take a while, so that they come after others begun later
   TRUST_CONTROL  file with a piece of a path: writing to such files fails with ENOSPC as long as the file exists */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

static void put(int fd, const void *data, size_t size) {
    const char *next = data;
    while (size) {
        ssize_t done = syscall(SYS_write, fd, next, size);
        if (done <= 0) abort();
        next += done;
        size -= done;
    }
}

static void record(char kind, uint64_t inode, uint64_t offset, const char *name, const void *data, size_t size) {
    static int log = -2;
    if (log == -2) {
        const char *path = getenv("TRUST_LOG");
        log = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    }
    if (log < 0) return;
    uint64_t head[5] = {(uint64_t)kind, inode, offset, strlen(name), size};
    put(log, head, sizeof head);
    put(log, name, head[3]);
    put(log, data, size);
}

static int below(const char *path) {
    const char *root = getenv("TRUST_ROOT");
    size_t size = root ? strlen(root) : 0;
    return size && !strncmp(path, root, size) && (path[size] == '/' || !path[size]);
}

/* The path of an open file below the folder; 0 for any other. */
static int meant(int fd, char *path) {
    char link[64];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    errno = before;
    if (size <= 0) return 0;
    path[size] = 0;
    return below(path);
}

static int is_full(const char *path) {
    const char *control = getenv("TRUST_CONTROL");
    char piece[256];
    if (!control) return 0;
    int before = errno, fd = (int)syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) {
        errno = before;
        return 0;
    }
    ssize_t size = syscall(SYS_read, fd, piece, sizeof piece - 1);
    syscall(SYS_close, fd);
    errno = before;
    if (size <= 0) return 0;
    piece[size] = 0;
    if (!strstr(path, piece)) return 0;
    errno = ENOSPC;
    return 1;
}

static uint64_t inode_of(int fd) {
    struct stat known;
    return fstat(fd, &known) ? 0 : known.st_ino;
}

static int open_any(int where, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    pthread_mutex_lock(&lock);
    struct stat known;
    int was_there = !fstatat(where, name, &known, 0);
    int fd = (int)syscall(SYS_openat, where, name, flags, mode);
    if (fd >= 0 && (flags & O_CREAT) && meant(fd, path)) {
        if (!was_there && is_full(path)) {
            syscall(SYS_unlinkat, where, name, 0);
            syscall(SYS_close, fd);
            errno = ENOSPC;
            fd = -1;
        } else if (!was_there) {
            record('C', inode_of(fd), 0, path, "", 0);
        }
    }
    if (fd >= 0 && was_there && (flags & O_TRUNC) && meant(fd, path)) record('T', inode_of(fd), 0, path, "", 0);
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPENING(where, name, flags)                                                                                   \
    mode_t mode = 0;                                                                                                  \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                              \
        va_list more;                                                                                                 \
        va_start(more, flags);                                                                                        \
        mode = va_arg(more, mode_t);                                                                                  \
        va_end(more);                                                                                                 \
    }                                                                                                                 \
    return open_any(where, name, flags, mode);

int open(const char *name, int flags, ...) { OPENING(AT_FDCWD, name, flags) }
int open64(const char *name, int flags, ...) { OPENING(AT_FDCWD, name, flags) }
int openat(int where, const char *name, int flags, ...) { OPENING(where, name, flags) }
int openat64(int where, const char *name, int flags, ...) { OPENING(where, name, flags) }

static int is_socket(int fd) {
    struct stat known;
    return !fstat(fd, &known) && S_ISSOCK(known.st_mode);
}

ssize_t write(int fd, const void *data, size_t size) {
    char path[PATH_MAX];
    if (is_socket(fd)) {
        pthread_mutex_lock(&lock);
        record('S', 0, 0, "", data, size);
        ssize_t done = syscall(SYS_write, fd, data, size);
        pthread_mutex_unlock(&lock);
        return done;
    }
    if (!meant(fd, path)) return syscall(SYS_write, fd, data, size);
    if (is_full(path)) return -1;
    pthread_mutex_lock(&lock);
    ssize_t done = syscall(SYS_write, fd, data, size);
    if (done > 0) record('W', inode_of(fd), lseek(fd, 0, SEEK_CUR) - done, path, data, done);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int number) {
    ssize_t sum = 0;
    for (int i = 0; i < number; i++) {
        ssize_t done = parts[i].iov_len ? write(fd, parts[i].iov_base, parts[i].iov_len) : 0;
        if (done < 0) return sum ? sum : -1;
        sum += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return sum;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    char path[PATH_MAX];
    if (!meant(fd, path)) return syscall(SYS_pwrite64, fd, data, size, offset);
    if (is_full(path)) return -1;
    pthread_mutex_lock(&lock);
    ssize_t done = syscall(SYS_pwrite64, fd, data, size, offset);
    if (done > 0) record('W', inode_of(fd), offset, path, data, done);
    pthread_mutex_unlock(&lock);
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

int ftruncate64(int fd, off64_t size) {
    char path[PATH_MAX];
    if (!meant(fd, path)) return (int)syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&lock);
    int done = (int)syscall(SYS_ftruncate, fd, size);
    if (!done) record('T', inode_of(fd), size, path, "", 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int sync_any(int fd, long number) {
    char path[PATH_MAX];
    if (!meant(fd, path)) return (int)syscall(number, fd);
    if (is_full(path)) return -1;
    const char *late = getenv("TRUST_LATE");
    if (late && strstr(path, late)) usleep(20000);
    pthread_mutex_lock(&lock);
    struct stat known;
    fstat(fd, &known);
    record(S_ISDIR(known.st_mode) ? 'D' : 'F', known.st_ino, 0, path, "", 0);
    pthread_mutex_unlock(&lock);
    return 0; /* the disk is a thought here: what counts is that it was asked for */
}
int fsync(int fd) { return sync_any(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_any(fd, SYS_fdatasync); }

static void whole(const char *name, char *path) {
    char folder[PATH_MAX - 1024];
    if (name[0] == '/' || !getcwd(folder, sizeof folder)) snprintf(path, PATH_MAX, "%s", name);
    else snprintf(path, PATH_MAX, "%s/%.1000s", folder, name);
}

static int two(char kind, const char *from, const char *to, long number) {
    char one[PATH_MAX], other[PATH_MAX];
    whole(from, one);
    whole(to, other);
    pthread_mutex_lock(&lock);
    int done = (int)(number == SYS_linkat ? syscall(number, AT_FDCWD, from, AT_FDCWD, to, 0)
                                          : syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
    if (!done && below(one)) record(kind, 0, 0, one, other, strlen(other));
    pthread_mutex_unlock(&lock);
    return done;
}
int rename(const char *from, const char *to) { return two('R', from, to, SYS_renameat2); }
int link(const char *from, const char *to) { return two('L', from, to, SYS_linkat); }

static int unlink_any(int where, const char *name, int flags) {
    char path[PATH_MAX];
    whole(name, path);
    pthread_mutex_lock(&lock);
    int done = (int)syscall(SYS_unlinkat, where, name, flags);
    if (!done && below(path)) record('U', 0, 0, path, "", 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int unlink(const char *name) { return unlink_any(AT_FDCWD, name, 0); }
int unlinkat(int where, const char *name, int flags) { return unlink_any(where, name, flags); }
int rmdir(const char *name) { return unlink_any(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdir(const char *name, mode_t mode) {
    char path[PATH_MAX];
    whole(name, path);
    if (below(path) && is_full(path)) return -1;
    pthread_mutex_lock(&lock);
    int done = (int)syscall(SYS_mkdirat, AT_FDCWD, name, mode);
    if (!done && below(path)) record('M', 0, 0, path, "", 0);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
    pthread_mutex_lock(&lock); /* before it goes out: nothing that is done afterwards can have been before it */
    record('S', 0, 0, "", data, size);
    pthread_mutex_unlock(&lock);
    return syscall(SYS_sendto, fd, data, size, flags, NULL, 0);
}
