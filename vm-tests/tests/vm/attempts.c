/*
 * What the worst pod tries against the machine, one system call at a time. Run in a privileged pod with the host's
 * / at /host; prints "NAME: refused: WHY" or "NAME: ALLOWED" for each. What would do harm if it were allowed is
 * asked in its mildest form: a sysctl is given the value that it has, a reboot is the switch of Ctrl-Alt-Del.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/nsfs.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/quota.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The initial user namespace's inode: include/linux/proc_ns.h, PROC_USER_INIT_INO. */
#define HOST_USERNS "user:[4026531837]"

static void tell(const char *name, long result)
{
    if (result < 0)
        printf("%s: refused: %s\n", name, strerror(errno));
    else
        printf("%s: ALLOWED\n", name);
    fflush(stdout);
}

static void try_open(const char *path, int flags)
{
    char name[300];
    int fd = open(path, flags | O_CLOEXEC, 0600);
    char byte;
    long result = fd;
    if (fd >= 0 && (flags & O_ACCMODE) == O_RDONLY)
        result = read(fd, &byte, 1) > 0 ? 0 : -1;
    snprintf(name, sizeof name, "%s %s", (flags & O_ACCMODE) == O_RDONLY ? "read" : "write", path);
    tell(name, result);
    if (fd >= 0) {
        close(fd);
        if (flags & O_CREAT)
            unlink(path);
    }
}

/* Writes what is there already. */
static void try_sysctl(const char *root, const char *key)
{
    char path[300], name[320], value[256];
    snprintf(path, sizeof path, "%s/%s", root, key);
    snprintf(name, sizeof name, "sysctl %s", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    long length = fd < 0 ? 0 : read(fd, value, sizeof value);
    if (fd >= 0)
        close(fd);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    tell(name, fd < 0 ? fd : write(fd, value, length > 0 ? length : 0));
    if (fd >= 0)
        close(fd);
}

/*
 * A pid namespace has one of its own since Linux 6.14 (kernel/pid_namespace.c), and whoever owns it sets it. So another
 * value is asked for, and whoever runs this looks whether the machine has it then.
 */
static void try_pid_max(void)
{
    static const char path[] = "/proc/sys/kernel/pid_max";
    char value[32] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && read(fd, value, sizeof value - 1) > 0)
        snprintf(value, sizeof value, "%ld", strtol(value, NULL, 10) - 1);
    close(fd);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, value, strlen(value)) < 0)
        tell("sysctl /proc/sys/kernel/pid_max", -1);
    else
        puts("sysctl /proc/sys/kernel/pid_max: a namespace's own");
    close(fd);
}

static void try_mount(const char *source)
{
    static const char *const points[] = {"/mnt", "/tmp"};
    char name[300];
    long result = mount(source, points[mkdir("/mnt", 0755) && errno != EEXIST], "ext4", MS_RDONLY, NULL);
    snprintf(name, sizeof name, "mount %s", source);
    tell(name, result);
}

static void try_node(const char *name, mode_t kind, unsigned major_, unsigned minor_)
{
    char text[100];
    snprintf(text, sizeof text, "mknod %s", name);
    int made = mknod("/tmp/planted", kind | 0600, makedev(major_, minor_));
    tell(text, made < 0 ? made : open("/tmp/planted", O_RDONLY | O_CLOEXEC));
    unlink("/tmp/planted");
}

/* The attack of 2014: a file by its handle, past every directory. */
static void try_handle(const char *path)
{
    struct { struct file_handle head; char bytes[128]; } handle = {.head.handle_bytes = 128};
    int mount_id, fd = open("/host", O_RDONLY | O_CLOEXEC);
    if (name_to_handle_at(AT_FDCWD, path, &handle.head, &mount_id, 0) < 0) {
        tell("name_to_handle_at of shadow", -1);
        return;
    }
    tell("open_by_handle_at of shadow", open_by_handle_at(fd, &handle.head, O_RDONLY));
}

static void modules(void)
{
    tell("init_module", syscall(SYS_init_module, "", 0, ""));
    tell("finit_module", syscall(SYS_finit_module, 0, "", 0));
    tell("delete_module", syscall(SYS_delete_module, "dummy", O_NONBLOCK));
    tell("kexec_load", syscall(SYS_kexec_load, 0, 0, NULL, 0));
    tell("kexec_file_load", syscall(SYS_kexec_file_load, -1, -1, 0, "", 0));
}

static void kernel(void)
{
    struct timeval now;
    struct timespec then;
    struct timex shift = {.modes = ADJ_OFFSET};
    gettimeofday(&now, NULL);
    clock_gettime(CLOCK_REALTIME, &then);
    tell("settimeofday", settimeofday(&now, NULL));
    tell("clock_settime", clock_settime(CLOCK_REALTIME, &then));
    tell("adjtimex", adjtimex(&shift));
    tell("reboot", reboot(RB_ENABLE_CAD));
    char log[512];
    tell("syslog: read all", klogctl(3, log, sizeof log));
    tell("syslog: clear", klogctl(5, NULL, 0));
    tell("swapon", swapon("/tmp", 0));
    tell("iopl", iopl(3));
    tell("ioperm", ioperm(0x80, 1, 1));
    tell("quotactl", quotactl(QCMD(Q_QUOTAOFF, USRQUOTA), "/host/dev/vda", 0, NULL));
    tell("acct", acct("/tmp/acct"));
    struct bpf_insn exit0[] = {{.code = 0xb7}, {.code = 0x95}};
    union bpf_attr program = {.prog_type = BPF_PROG_TYPE_KPROBE, .insn_cnt = 2,
                              .insns = (unsigned long)exit0, .license = (unsigned long)"GPL"};
    tell("bpf: load a kprobe", syscall(SYS_bpf, BPF_PROG_LOAD, &program, sizeof program));
    struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .size = sizeof event, .config = PERF_COUNT_SW_CPU_CLOCK};
    tell("perf_event_open: all of a processor", syscall(SYS_perf_event_open, &event, -1, 0, -1, 0));
    struct sched_param first = {.sched_priority = 50};
    tell("a real-time priority", sched_setscheduler(0, SCHED_FIFO, &first));
    struct rlimit files = {1 << 22, 1 << 22};
    tell("a limit above the hard one", setrlimit(RLIMIT_NOFILE, &files));
}

/* Everything of the host that this pid namespace shows: nothing. */
static void processes(void)
{
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    int seen = 0, hosts = 0;
    while (dir && (entry = readdir(dir))) {
        char path[300], link[64] = "";
        int pid = atoi(entry->d_name);
        snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
        if (pid <= 0)
            continue;
        seen++;
        if (readlink(path, link, sizeof link - 1) > 0 && !strcmp(link, HOST_USERNS) && ++hosts) {
            printf("process %d is the host's\n", pid);
            tell("ptrace of a process of the host", ptrace(PTRACE_ATTACH, pid, 0, 0));
            tell("signal to a process of the host", kill(pid, 0));
        }
    }
    errno = ESRCH;
    tell("processes of the host, to signal and to trace", hosts ? 0 : -1);
    printf("(%d processes are seen)\n", seen);
    int own = open("/proc/1/ns/user", O_RDONLY | O_CLOEXEC);
    tell("ioctl: the parent of the node's user namespace", ioctl(own, NS_GET_PARENT));
    int pids = open("/proc/1/ns/pid", O_RDONLY | O_CLOEXEC);
    tell("ioctl: the parent of the node's pid namespace", ioctl(pids, NS_GET_PARENT));
}

static void uncover(const char *path)
{
    for (int i = 0; i < 8 && umount2(path, MNT_DETACH) == 0; i++)
        ;
}

/* The node mounts its own /proc, /sys, /dev and /run over the host's: taken away, what is below must be shut, too. */
static void uncovered(void)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        tell("a mount namespace to uncover the host's file systems in", -1);
    uncover("/host/proc");
    uncover("/host/sys");
    uncover("/host/dev");
    uncover("/host/run");
    uncover("/host/root");
    struct stat info;
    printf("(uncovered: /host/proc %s, /host/sys %s)\n", stat("/host/proc/1", &info) ? "without pid 1" : "with pid 1",
           stat("/host/sys/fs/cgroup/system.slice", &info) ? "without cgroups" : "with the host's cgroups");
    try_open("/host/proc/1/environ", O_RDONLY);
    try_open("/host/proc/1/mem", O_RDONLY);
    try_open("/host/proc/1/root/etc/hostname", O_RDONLY);
    try_open("/host/proc/kcore", O_RDONLY);
    static const char *const kinds[] = {"user", "mnt", "pid", "net", "uts", "ipc", "cgroup", "time"};
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char path[64], name[64];
        snprintf(path, sizeof path, "/host/proc/1/ns/%s", kinds[i]);
        snprintf(name, sizeof name, "setns: the host's %s", kinds[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        tell(name, fd < 0 ? fd : setns(fd, 0));
    }
    try_sysctl("/host/proc/sys", "kernel/core_pattern");
    try_sysctl("/host/proc/sys", "kernel/modprobe");
    try_open("/host/proc/sysrq-trigger", O_WRONLY);
    try_open("/host/dev/vda", O_RDONLY);
    try_open("/host/dev/mem", O_RDONLY);
    try_open("/host/dev/kmsg", O_RDONLY);
    try_mount("/host/dev/vda");
    try_open("/host/sys/fs/cgroup/cgroup.procs", O_WRONLY);
    try_open("/host/sys/fs/cgroup/system.slice/cgroup.procs", O_WRONLY);
    try_open("/host/sys/fs/cgroup/system.slice/u7s.service/memory.max", O_WRONLY);
    try_open("/host/sys/fs/cgroup/init.scope/cgroup.procs", O_WRONLY);
    tell("mkdir in the host's cgroup tree", mkdir("/host/sys/fs/cgroup/planted", 0755));
    tell("mkdir in system.slice", mkdir("/host/sys/fs/cgroup/system.slice/planted", 0755));
    try_open("/host/run/planted", O_WRONLY | O_CREAT);
    try_open("/host/root/.kube/config", O_RDONLY);
}

static void answers(const char *name, int family, struct sockaddr *address, socklen_t length)
{
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), error = 0;
    socklen_t size = sizeof error;
    char word[16] = "";
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    long result = connect(fd, address, length);
    if (result < 0 && errno == EINPROGRESS) {
        error = poll(&wait, 1, 10000) > 0 ? 0 : ETIMEDOUT;
        if (!error)
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
        result = error ? -1 : 0;
        errno = error;
    }
    if (result == 0) {
        /* slirp4netns accepts first and connects then: a word of the canary is what counts. */
        wait.events = POLLIN;
        result = poll(&wait, 1, 10000) > 0 && read(fd, word, sizeof word) > 0 ? 0 : -1;
        if (result < 0 && !errno)
            errno = ECONNRESET;
    }
    tell(name, result);
    close(fd);
}

/* Words of the form tcp=ADDRESS:PORT and abstract=NAME: where canaries listen. */
static void canary(char *word)
{
    if (!strncmp(word, "tcp=", 4)) {
        struct sockaddr_in address = {.sin_family = AF_INET};
        char copy[64], *colon;
        snprintf(copy, sizeof copy, "%s", word + 4);
        colon = strchr(copy, ':');
        if (colon) {
            *colon = 0;
            address.sin_port = htons((unsigned short)atoi(colon + 1));
        }
        inet_pton(AF_INET, copy, &address.sin_addr);
        answers(word, AF_INET, (struct sockaddr *)&address, sizeof address);
    } else if (!strncmp(word, "abstract=", 9)) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        size_t length = strnlen(word + 9, sizeof address.sun_path - 1);
        memcpy(address.sun_path + 1, word + 9, length);
        answers(word, AF_UNIX, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + length);
    } else {
        printf("unknown word %s: ALLOWED\n", word);
    }
}

static void files(void)
{
    try_open("/host/etc/shadow", O_RDONLY);
    try_open("/host/etc/passwd", O_WRONLY | O_APPEND);
    try_open("/host/usr/bin/planted", O_WRONLY | O_CREAT);
    try_open("/host/etc/systemd/system/planted.service", O_WRONLY | O_CREAT);
    try_open("/host/etc/u7s/node.json", O_WRONLY | O_APPEND);
    try_open("/host/var/lib/u7s/undo.json", O_RDONLY);
    try_open("/host/usr/libexec/u7s/u7s-supervisor", O_WRONLY);
    tell("chown of /etc/passwd", chown("/host/etc/passwd", 0, 0));
    try_handle("/host/etc/shadow");
    tell("chroot to the host, then its shadow",
         chroot("/host") < 0 ? -1 : open("/etc/shadow", O_RDONLY | O_CLOEXEC));
}

static void sysctls(void)
{
    static const char *const keys[] = {
        "kernel/core_pattern", "kernel/sysrq", "kernel/panic", "kernel/modprobe", "kernel/poweroff_cmd",
        "kernel/dmesg_restrict", "kernel/kptr_restrict", "kernel/perf_event_paranoid",
        "vm/drop_caches", "vm/overcommit_memory", "vm/panic_on_oom", "vm/swappiness", "vm/mmap_min_addr",
        "fs/file-max", "fs/suid_dumpable", "fs/protected_symlinks", "kernel/keys/maxkeys",
    };
    for (unsigned i = 0; i < sizeof keys / sizeof *keys; i++)
        try_sysctl("/proc/sys", keys[i]);
    try_pid_max();
    try_open("/proc/sysrq-trigger", O_WRONLY);
    try_open("/proc/kcore", O_RDONLY);
    try_open("/sys/kernel/mm/transparent_hugepage/enabled", O_WRONLY);
    try_open("/sys/block/vda/queue/read_ahead_kb", O_WRONLY);
    try_open("/sys/bus/pci/rescan", O_WRONLY);
    try_open("/sys/power/state", O_WRONLY);
    try_open("/sys/module/nf_conntrack/parameters/hashsize", O_WRONLY);
}

int main(int count, char **words)
{
    for (int i = 1; i < count; i++)
        canary(words[i]);
    sysctls();
    modules();
    kernel();
    processes();
    try_node("the disk", S_IFBLK, 254, 0);
    try_node("the memory", S_IFCHR, 1, 1);
    try_mount("/dev/vda");
    /* Both change the process for good. */
    if (fork() == 0) {
        uncovered();
        _exit(0);
    }
    while (waitpid(-1, NULL, 0) > 0)
        ;
    files();
    puts("end");
    return 0;
}
