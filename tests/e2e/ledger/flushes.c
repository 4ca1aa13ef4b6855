/* Stands before the C library's flushes, in a process that is being tested. Files of the directory FLUSHES steer it:
   while "hold" is there, a flush of the journal waits and makes "held"; while "fail" is there, it fails; "done" names
   what was flushed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *name(char *buffer, size_t size, const char *what) {
    snprintf(buffer, size, "%s/%s", getenv("FLUSHES"), what);
    return buffer;
}

static int flush(int fd, long call) {
    char link[64], path[4096], steer[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 2);
    if (length < 0 || !getenv("FLUSHES")) return (int)syscall(call, fd);
    path[length] = 0;
    if (!strstr(path, "/journal")) return (int)syscall(call, fd);
    if (access(name(steer, sizeof steer, "hold"), F_OK) == 0) {
        close(open(name(steer, sizeof steer, "held"), O_CREAT | O_WRONLY, 0600));
        while (access(name(steer, sizeof steer, "hold"), F_OK) == 0) usleep(1000);
    }
    if (access(name(steer, sizeof steer, "fail"), F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    int flushed = (int)syscall(call, fd);
    int done = open(name(steer, sizeof steer, "done"), O_CREAT | O_WRONLY | O_APPEND, 0600);
    path[length] = '\n';
    if (write(done, path, (size_t)length + 1) < 0) abort();
    close(done);
    return flushed;
}

int fdatasync(int fd) { return flush(fd, SYS_fdatasync); }
int fsync(int fd) { return flush(fd, SYS_fsync); }
