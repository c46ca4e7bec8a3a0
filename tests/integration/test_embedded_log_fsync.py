"""A disk whose fsync fails: Linux then takes the pages for clean, so what was to be synced may never reach the disk.

* The shim keeps what such a disk would hold after a power cut: writes reach it at a successful fsync, and are forgotten
  at one that fails. What was acknowledged has to be in there.
"""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct change { struct change *next; char path[512]; long start; long length; char *data; };  /* no data: cut */
static struct change *first, **last = &first;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static int ours(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = readlink(link, path, 511);
    path[length > 0 ? length : 0] = 0;
    return strstr(path, "/log.db") != NULL;
}

static void note(int fd, const void *data, long length, long start) {
    struct change *change = calloc(1, sizeof *change);
    if (!ours(fd, change->path)) { free(change); return; }
    change->start = start; change->length = length;
    if (data) { change->data = malloc(length); memcpy(change->data, data, length); }
    pthread_mutex_lock(&turn);
    *last = change; last = &change->next;
    pthread_mutex_unlock(&turn);
}

static ssize_t write_at(int fd, const void *data, size_t length, off_t start) {
    ssize_t (*real)(int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, "pwrite64");
    ssize_t written = real(fd, data, length, start);
    if (written > 0) note(fd, data, written, start);
    return written;
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t start) { return write_at(fd, data, length, start); }
ssize_t pwrite64(int fd, const void *data, size_t length, off_t start) { return write_at(fd, data, length, start); }

static int cut(int fd, off_t length) {
    int (*real)(int, off_t) = dlsym(RTLD_NEXT, "ftruncate64");
    int failed = real(fd, length);
    if (!failed) note(fd, NULL, length, 0);
    return failed;
}
int ftruncate(int fd, off_t length) { return cut(fd, length); }
int ftruncate64(int fd, off_t length) { return cut(fd, length); }

static void settle(const char *path, int apply) {
    char kept_at[1024];
    snprintf(kept_at, sizeof kept_at, "%s%s", getenv("SHIM_DURABLE"), strrchr(path, '/'));
    ssize_t (*put)(int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, "pwrite64");
    int (*truncate_to)(int, off_t) = dlsym(RTLD_NEXT, "ftruncate64");
    int kept = open(kept_at, O_RDWR | O_CREAT, 0644);
    pthread_mutex_lock(&turn);
    for (struct change **at = &first; *at;) {
        struct change *change = *at;
        if (strcmp(change->path, path)) { at = &change->next; continue; }
        if (apply && change->data) put(kept, change->data, change->length, change->start);
        if (apply && !change->data) truncate_to(kept, change->length);
        *at = change->next;
        free(change->data); free(change);
    }
    for (last = &first; *last;) last = &(*last)->next;
    pthread_mutex_unlock(&turn);
    close(kept);
}

static int sync_to_disk(int fd, const char *name) {
    char path[512];
    int (*real)(int) = dlsym(RTLD_NEXT, name);
    if (!ours(fd, path)) return real(fd);
    int fails = access(getenv("SHIM_FAILS"), F_OK) == 0;
    settle(path, !fails);
    if (!fails) return real(fd);
    errno = EIO;
    return -1;
}
int fsync(int fd) { return sync_to_disk(fd, "fsync"); }
int fdatasync(int fd) { return sync_to_disk(fd, "fdatasync"); }

int unlink(const char *path) {
    int (*real)(const char *) = dlsym(RTLD_NEXT, "unlink");
    char kept_at[1024];
    if (strstr(path, "/log.db")) {
        settle(path, 0);
        snprintf(kept_at, sizeof kept_at, "%s%s", getenv("SHIM_DURABLE"), strrchr(path, '/'));
        real(kept_at);
    }
    return real(path);
}
"""

GATEWAY = """
import asyncio, os, sqlite3, sys
from pathlib import Path
from gateway.publish import Unavailable
from gateway.publish.embedded import EmbeddedLog
from schemas.records import Record

async def attempt(log, value):
    try:
        await log.publish([Record("batches", b"", value)])
        print("acknowledged", value.decode(), flush=True)
        return True
    except Unavailable:
        return False

async def main():
    directory, fails = Path(sys.argv[1]), Path(os.environ["SHIM_FAILS"])
    log = await EmbeddedLog.open(directory, max_bytes=10**9, max_pending_bytes=10**9)
    assert await attempt(log, b"before")
    if sys.argv[2] == "read":  # a consumer keeps its connection; without one, ours is the last to close the file
        reader = sqlite3.connect(directory / "log.db")
        reader.execute("SELECT count(*) FROM batches").fetchone()
    fails.touch()
    assert not await attempt(log, b"lost" * 10_000)
    assert not await attempt(log, b"lost too")
    fails.unlink()
    async with asyncio.timeout(20):
        while not await attempt(log, b"after"):
            await asyncio.sleep(0.01)
    os._exit(0)  # as a power cut leaves it: nothing is closed

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler for a disk that fails")
    directory = tmp_path_factory.mktemp("shim")
    (directory / "shim.c").write_text(SHIM)
    built = directory / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", built, directory / "shim.c", "-ldl"], check=True)
    return built


@pytest.mark.parametrize("consumer", ["read", "unread"])
async def test_what_is_acknowledged_after_a_failed_fsync_survives_a_power_cut(
    shim: Path, tmp_path: Path, consumer: str
) -> None:
    durable = tmp_path / "durable"
    durable.mkdir()
    environ = {"LD_PRELOAD": str(shim), "SHIM_DURABLE": str(durable), "SHIM_FAILS": str(tmp_path / "fails")}
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        GATEWAY,
        str(tmp_path / "log"),
        consumer,
        env=os.environ | environ,
        stdout=subprocess.PIPE,
    )
    said = (await child.communicate())[0].decode().splitlines()
    assert child.returncode == 0
    assert said == ["acknowledged before", "acknowledged after"]
    after_the_cut = sqlite3.connect(durable / "log.db")
    kept = [value for (value,) in after_the_cut.execute("SELECT value FROM batches ORDER BY number")]
    after_the_cut.close()
    assert {b"before", b"after"} <= set(kept)
