/* The pod's first process: holds its namespaces, reaps what is left to it, ends when told. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void leave(int signal) { (void)signal; _exit(0); }

static void reap(int signal)
{
	(void)signal;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

int main(int argc, char **argv)
{
	struct sigaction end = { .sa_handler = leave };
	struct sigaction child = { .sa_handler = reap, .sa_flags = SA_NOCLDSTOP };

	/* kubeadm upgrade's health check is a job that runs this image so. */
	if (argc > 1 && strcmp(argv[1], "-v") == 0)
		return puts("pause") == EOF;
	sigaction(SIGINT, &end, NULL);
	sigaction(SIGTERM, &end, NULL);
	sigaction(SIGCHLD, &child, NULL);
	for (;;)
		pause();
}
