/* Becomes a tool as an unprivileged user, as systemd would start it, and says when that began.
 *
 * Usage: launch CGROUP UID GID CAPABILITIES PROGRAM ARGUMENT...
 *
 * UID 0 stays what it is. CAPABILITIES is the mask, in hexadecimal, that becomes the bounding and, if it is not 0, the ambient set.
 * The time just before the exec goes to standard output, eight bytes. A standard input that can be written to becomes
 * descriptor 20 of the tool.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void want(int good, const char *what)
{
	if (!good) {
		perror(what);
		_exit(126);
	}
}

static void enter(const char *cgroup)
{
	int file = open(cgroup, O_WRONLY | O_CLOEXEC);
	want(file >= 0 && write(file, "0", 1) == 1, "cgroup.procs");
	close(file);
}

static void become(uid_t uid, gid_t gid, uint64_t mask)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { 0 } };

	for (int bit = 0; bit < 64; bit++)
		if (mask && !(mask >> bit & 1) && prctl(PR_CAPBSET_READ, bit, 0, 0, 0) == 1)
			want(prctl(PR_CAPBSET_DROP, bit, 0, 0, 0) == 0, "bounding set");
	want(setgroups(0, NULL) == 0, "setgroups");
	want(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0, "keep capabilities");
	want(setresgid(gid, gid, gid) == 0 && setresuid(uid, uid, uid) == 0, "setresuid");
	for (int half = 0; half < 2; half++)
		data[half].effective = data[half].permitted = data[half].inheritable = (uint32_t)(mask >> 32 * half);
	want(syscall(SYS_capset, &header, data) == 0, "capset");
	for (int bit = 0; bit < 64; bit++)
		if (mask >> bit & 1)
			want(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, bit, 0, 0) == 0, "ambient set");
	/* Its /proc files shall be its own, as after an ordinary login. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}

int main(int argc, char **argv)
{
	struct timespec now;
	uint64_t stamp;

	want(argc > 5, "usage");
	enter(argv[1]);
	if (atoi(argv[2]) != 0)
		become((uid_t)atoi(argv[2]), (gid_t)atoi(argv[3]), strtoull(argv[4], NULL, 16));
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), out = dup(1);
	fcntl(out, F_SETFD, FD_CLOEXEC);
	if ((fcntl(0, F_GETFL) & O_ACCMODE) == O_WRONLY)
		want(dup2(0, 20) == 20, "dup2");
	want(null >= 0 && out >= 0 && dup2(null, 0) == 0 && dup2(null, 1) == 1, "dup2");
	clock_gettime(CLOCK_MONOTONIC, &now);
	stamp = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	want(write(out, &stamp, sizeof stamp) == sizeof stamp, "write");
	execv(argv[5], argv + 5);
	want(0, argv[5]);
}
