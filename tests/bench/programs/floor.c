/* The least that any tool has to do: one clone3 with all namespaces, both id maps, exec of the payload, wait for its end.
 *
 * Usage: floor UID GID FIRST_SUBORDINATE_ID PROGRAM ARGUMENT...
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void want(int good, const char *what)
{
	if (!good) {
		perror(what);
		_exit(1);
	}
}

static void map(int pid, const char *kind, const char *own, const char *first)
{
	char path[64], text[128];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, kind);
	int length = snprintf(text, sizeof text, "0 %s 1\n1 %s 65536\n", own, first);
	int file = open(path, O_WRONLY | O_CLOEXEC);
	want(file >= 0 && write(file, text, (size_t)length) == length, kind);
	close(file);
}

int main(int argc, char **argv)
{
	struct clone_args arguments = { .exit_signal = SIGCHLD };
	int barrier[2], status;
	char byte = 0;

	want(argc > 4 && pipe2(barrier, O_CLOEXEC) == 0, "usage");
	arguments.flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
		| CLONE_NEWCGROUP;
	long pid = syscall(SYS_clone3, &arguments, sizeof arguments);
	want(pid >= 0, "clone3");
	if (pid == 0) {
		want(read(barrier[0], &byte, 1) == 1, "the maps");
		execv(argv[4], argv + 4);
		want(0, argv[4]);
	}
	map((int)pid, "uid_map", argv[1], argv[3]);
	map((int)pid, "gid_map", argv[2], argv[3]);
	want(write(barrier[1], &byte, 1) == 1, "release");
	want(waitpid((pid_t)pid, &status, 0) == pid && status == 0, "payload");
	return 0;
}
