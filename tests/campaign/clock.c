/* The wall clock of one machine of a campaign: preloaded into its processes, it adds the number in a shared file.
 *
 * Every program asks the kernel's vDSO for the time, some (ClickHouse) without the C library. So the vDSO's functions
 * are patched, in this process only, to jump here. x86-64 Linux. Clocks that only run forward are left alone, and waits
 * until a time of day end when they would have ended on a machine whose clock was always so.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset_ns;

static long ask_kernel(long number, long first, long second) {
    long answer;
    __asm__ volatile("syscall" : "=a"(answer) : "a"(number), "D"(first), "S"(second) : "rcx", "r11", "memory");
    return answer;
}

static int moved_clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)ask_kernel(SYS_clock_gettime, clock, (long)now);
    if (failed == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t ns = now->tv_sec * 1000000000LL + now->tv_nsec + *offset_ns;
        now->tv_sec = ns / 1000000000;
        now->tv_nsec = ns % 1000000000;
    }
    return failed;
}

static int moved_gettimeofday(struct timeval *now, struct timezone *zone) {
    struct timespec found;
    moved_clock_gettime(CLOCK_REALTIME, &found);
    if (now) *now = (struct timeval){found.tv_sec, found.tv_nsec / 1000};
    if (zone) memset(zone, 0, sizeof *zone);
    return 0;
}

static time_t moved_time(time_t *kept) {
    struct timespec found;
    moved_clock_gettime(CLOCK_REALTIME, &found);
    if (kept) *kept = found.tv_sec;
    return found.tv_sec;
}

/* The kernel waits by its own clock. A deadline of a clock that counts from boot is smaller than any time of day. */
int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *deadline) {
    static int (*wait_until)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!wait_until) *(void **)&wait_until = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    struct timespec real = *deadline;
    if (offset_ns && deadline->tv_sec > 1000000000) {
        int64_t ns = deadline->tv_sec * 1000000000LL + deadline->tv_nsec - *offset_ns;
        real = (struct timespec){ns / 1000000000, ns % 1000000000};
    }
    return wait_until(condition, mutex, &real);
}

static void jump_from(char *function, void *to) {
    unsigned char code[12] = {0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0}; /* mov rax, to; jmp rax */
    memcpy(code + 2, &to, sizeof to);
    memcpy(function, code, sizeof code);
}

static void patch(char *image) {
    Elf64_Ehdr *head = (Elf64_Ehdr *)image;
    Elf64_Phdr *part = (Elf64_Phdr *)(image + head->e_phoff);
    Elf64_Sym *symbols = 0;
    char *names = 0, *load = 0;
    uint32_t count = 0;
    size_t bytes = 0;
    for (int n = 0; n < head->e_phnum; n++)
        if (part[n].p_type == PT_LOAD) {
            load = image + part[n].p_offset - part[n].p_vaddr;
            bytes = part[n].p_offset + part[n].p_memsz;
        }
    Elf64_Shdr *section = (Elf64_Shdr *)(image + head->e_shoff);
    for (int n = 0; n < head->e_shnum; n++)
        if (section[n].sh_type == SHT_DYNSYM) {
            symbols = (Elf64_Sym *)(image + section[n].sh_offset);
            count = section[n].sh_size / sizeof *symbols;
            names = image + section[section[n].sh_link].sh_offset;
        }
    if (mprotect(image, bytes, PROT_READ | PROT_WRITE | PROT_EXEC)) return; /* the whole mapping: it cannot be split */
    for (uint32_t n = 0; n < count; n++) {
        char *name = names + symbols[n].st_name, *at = load + symbols[n].st_value;
        void *to = !strcmp(name, "__vdso_clock_gettime") ? (void *)moved_clock_gettime
                 : !strcmp(name, "__vdso_gettimeofday")  ? (void *)moved_gettimeofday
                 : !strcmp(name, "__vdso_time")          ? (void *)moved_time : 0;
        if (to) jump_from(at, to);
    }
}

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("CAMPAIGN_CLOCK");
    char *image = (char *)getauxval(AT_SYSINFO_EHDR);
    int fd = path && image ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *seen = mmap(0, sizeof *offset_ns, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (seen == MAP_FAILED) return;
    offset_ns = seen;
    patch(image);
}
