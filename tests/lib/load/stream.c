/* A TCP stream of bytes that tell the mark and the place: one lost, doubled or another's shows. */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PERIOD = 65521, CHUNK = 1 << 17, PORT = 7777 }; /* a prime: the pattern meets every place of a segment */

static uint8_t pattern[PERIOD + CHUNK];
static const char *ip;
static atomic_bool over, listening;
static unsigned long long arrived, wrong;

static struct sockaddr_in place(void) {
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(PORT)};
  inet_pton(AF_INET, ip, &at.sin_addr);
  return at;
}

static void *receive_all(void *netns) {
  static uint8_t data[CHUNK];
  struct sockaddr_in at = place();
  int on = 1;
  enter(netns);
  int door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 || bind(door, (struct sockaddr *)&at, sizeof at) < 0 ||
      listen(door, 1) < 0)
    fail("listen");
  listening = true;
  int fd = accept(door, NULL, NULL);
  if (fd < 0)
    fail("accept");
  for (;;) {
    ssize_t got = recv(fd, data, sizeof data, 0);
    if (got < 0)
      fail("recv");
    if (got == 0)
      break;
    wrong += memcmp(data, pattern + arrived % PERIOD, got) != 0;
    arrived += got;
  }
  close(fd);
  close(door);
  return NULL;
}

static void *send_all(void *netns) {
  unsigned long long sent = 0;
  struct sockaddr_in at = place();
  struct timeval patience = {20, 0};
  enter(netns);
  while (!listening)
    nanosleep(&(struct timespec){0, 1000000}, NULL);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) < 0 ||
      connect(fd, (struct sockaddr *)&at, sizeof at) < 0)
    fail("connect");
  printf("ready\n");
  fflush(stdout);
  while (!over) {
    ssize_t gone = send(fd, pattern + sent % PERIOD, CHUNK, 0);
    if (gone < 0)
      fail("send");
    sent += gone;
  }
  close(fd);
  return NULL;
}

int stream(int argc, char **argv) {
  pthread_t sender, receiver;
  char ignored[16];
  (void)argc;
  ip = argv[4];
  srandom(strtoul(argv[5], NULL, 10));
  for (int i = 0; i < PERIOD; i++)
    pattern[i] = random();
  memcpy(pattern + PERIOD, pattern, PERIOD);
  memcpy(pattern + 2 * PERIOD, pattern, CHUNK - PERIOD);
  if (pthread_create(&receiver, NULL, receive_all, argv[3]) || pthread_create(&sender, NULL, send_all, argv[2]))
    fail("pthread_create");
  while (read(0, ignored, sizeof ignored) > 0)
    ;
  over = true;
  pthread_join(sender, NULL);
  pthread_join(receiver, NULL);
  printf("{\"arrived\": %llu, \"wrong\": %llu}\n", arrived, wrong);
  return 0;
}
