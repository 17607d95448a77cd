/* Traffic that knows whose it is: every frame, and every byte of a stream, says which pair it belongs to. It goes on until
 * standard input ends, and then tells what it sent, what arrived, and what should not have.
 *
 *   load frames NETNS MARK SIDE RATE   out of and into whatever devices the namespace has
 *   load flows                         many of these, told on standard input where, and telling of each that is lost
 *   load stream NETNS NETNS IP MARK    TCP from the first namespace to IP in the second
 */
#define _GNU_SOURCE
#include "load.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

void enter(const char *netns) {
  int fd = open(netns, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
    fail(netns);
  close(fd);
}

int main(int argc, char **argv) {
  if (argc == 6 && !strcmp(argv[1], "frames"))
    return frames(argc, argv);
  if (argc == 2 && !strcmp(argv[1], "flows"))
    return flows(argc, argv);
  if (argc == 6 && !strcmp(argv[1], "stream"))
    return stream(argc, argv);
  fprintf(stderr, "usage: see load.c\n");
  return 2;
}
