/* Count what a process changes below one directory; end it there, tear a write, or let the disk refuse.
 *
 * Preloaded, so that Python's files and SQLite's go the same way. `arm` says what happens and at which change; changes are
 * numbered from 1. The process ends by exit_group: at once, in every thread, with nothing flushed or closed in order, and
 * with a code that no other death has. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { COUNT, KILL, TORN, FULL, FAIL };
enum { ENDED = 77 };
static char root[PATH_MAX];
static size_t length;
static long done, chosen;
static int mode;

void arm(int what, long at, const char *directory)
{
	strncpy(root, directory, sizeof root - 1);
	length = strlen(root);
	done = 0;
	chosen = at;
	mode = what;
}

long operations(void) { return done; }

static void end(void) { syscall(SYS_exit_group, ENDED); }

static int below(const char *path) { return length && !strncmp(path, root, length); }

static int ours(int file)
{
	char link[64], path[PATH_MAX];
	ssize_t size;
	if (!length)
		return 0;
	snprintf(link, sizeof link, "/proc/self/fd/%d", file);
	size = readlink(link, path, sizeof path - 1);
	if (size < 0)
		return 0;
	path[size] = 0;
	return below(path);
}

/* Return 0 to go on, 1 to write only a half, -1 to refuse. */
static int change(int needs_space)
{
	long number = __atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST);
	if (mode == KILL && number == chosen)
		end();
	if (mode == TORN && number == chosen)
		return 1;
	if (mode == FAIL && number == chosen) {
		errno = EIO;
		return -1;
	}
	if (mode == FULL && needs_space && number == chosen)
		return 1;
	if (mode == FULL && needs_space && number > chosen) {
		errno = ENOSPC;
		return -1;
	}
	return 0;
}

/* What cannot be done by half: where it should be, the process ends before it, and a full disk refuses it. */
static int whole(int needs_space)
{
	int verdict = change(needs_space);
	if (verdict <= 0)
		return verdict;
	if (mode == TORN)
		end();
	errno = ENOSPC;
	return -1;
}

#define REAL(name) \
	static __typeof__(name) *real; \
	if (!real) \
		real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define WRITES(call_half, call_whole) \
	if (ours(file)) { \
		int verdict = change(1); \
		if (verdict < 0) \
			return -1; \
		if (verdict > 0) { \
			ssize_t half = size > 1 ? call_half : 0; \
			if (mode == TORN) \
				end(); \
			if (half > 0) \
				return half; \
			errno = ENOSPC; \
			return -1; \
		} \
	} \
	return call_whole

ssize_t write(int file, const void *bytes, size_t size)
{
	REAL(write);
	WRITES(real(file, bytes, size / 2), real(file, bytes, size));
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t at)
{
	REAL(pwrite64);
	WRITES(real(file, bytes, size / 2, at), real(file, bytes, size, at));
}

ssize_t pwrite(int file, const void *bytes, size_t size, off_t at) { return pwrite64(file, bytes, size, at); }

int fsync(int file)
{
	REAL(fsync);
	return ours(file) && whole(0) ? -1 : real(file);
}

int fdatasync(int file)
{
	REAL(fdatasync);
	return ours(file) && whole(0) ? -1 : real(file);
}

int ftruncate64(int file, off64_t size)
{
	REAL(ftruncate64);
	return ours(file) && whole(0) ? -1 : real(file, size);
}

int ftruncate(int file, off_t size) { return ftruncate64(file, size); }

int rename(const char *from, const char *to)
{
	REAL(rename);
	return below(from) && whole(0) ? -1 : real(from, to);
}

int unlink(const char *path)
{
	REAL(unlink);
	return below(path) && whole(0) ? -1 : real(path);
}

int mkdir(const char *path, mode_t rights)
{
	REAL(mkdir);
	return below(path) && whole(1) ? -1 : real(path, rights);
}

/* Opening is a change where it makes the file or empties it. */
static int changes(const char *path, int flags)
{
	return below(path) && ((flags & O_TRUNC) || ((flags & O_CREAT) && access(path, F_OK)));
}

#define OPENS \
	mode_t rights = 0; \
	if (flags & (O_CREAT | O_TMPFILE)) { \
		va_list rest; \
		va_start(rest, flags); \
		rights = va_arg(rest, mode_t); \
		va_end(rest); \
	} \
	if (changes(path, flags) && whole(1)) \
		return -1

int open64(const char *path, int flags, ...)
{
	REAL(open64);
	OPENS;
	return real(path, flags, rights);
}

int open(const char *path, int flags, ...)
{
	REAL(open);
	OPENS;
	return real(path, flags, rights);
}
