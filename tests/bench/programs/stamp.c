/* The payload of every tool: says when it began, and ends. Usage: stamp FIFO */
#include <fcntl.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	uint64_t stamp = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	int fifo = argc == 2 ? open(argv[1], O_WRONLY) : -1;
	return fifo < 0 || write(fifo, &stamp, sizeof stamp) != sizeof stamp;
}
