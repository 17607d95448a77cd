/* TCP: bytes that arrive, after a warm-up. All flows of one direction come from one process and go to another one, as
 * with `iperf3 -P`. */
#define _GNU_SOURCE
#include "traffic.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BLOCK = 128 << 10 };

/* Sends or receives on every flow by turns, for ever. */
static _Noreturn void pump(struct pollfd *fds, int n, struct shared *shared) {
  char *block = calloc(1, BLOCK);
  int flags = n > 1 ? MSG_DONTWAIT : 0;
  for (;;) {
    if (n > 1 && poll(fds, n, -1) < 0)
      fail("poll");
    for (int i = 0; i < n; i++) {
      if (n > 1 && !fds[i].revents)
        continue;
      ssize_t moved = fds[i].events == POLLOUT ? send(fds[i].fd, block, BLOCK, flags | MSG_NOSIGNAL)
                                               : recv(fds[i].fd, block, BLOCK, flags);
      if (moved < 0 && errno == EAGAIN)
        continue;
      if (moved <= 0)
        _exit(0); /* the other side was ended first */
      if (fds[i].events == POLLIN)
        atomic_fetch_add_explicit(&shared->bytes, moved, memory_order_relaxed);
    }
  }
}

void start_tcp(const struct options *said, struct shared *shared, int flows, int back) {
  struct pollfd out[MAX_FLOWS], in[MAX_FLOWS];
  int listener = socket_in(back ? said->near_ns : said->far_ns, back ? said->near_ip : said->far_ip, SOCK_STREAM);
  if (listen(listener, MAX_FLOWS))
    fail("listen");
  for (int i = 0; i < flows; i++) {
    int fd = socket_in(back ? said->far_ns : said->near_ns, back ? said->far_ip : said->near_ip, SOCK_STREAM);
    connect_to(fd, listener);
    out[i] = (struct pollfd){fd, POLLOUT, 0};
    in[i] = (struct pollfd){accept(listener, NULL, NULL), POLLIN, 0};
    if (in[i].fd < 0)
      fail("accept");
  }
  if (!spawn())
    pump(in, flows, shared);
  if (!spawn())
    pump(out, flows, shared);
  close(listener);
  for (int i = 0; i < flows; i++) {
    close(in[i].fd);
    close(out[i].fd);
  }
}

void run_tcp(const struct options *said, struct shared *shared) {
  start_tcp(said, shared, said->flows, 0);
  if (said->both)
    start_tcp(said, shared, said->flows, 1);
  sleep_until(now_ns() + (int64_t)(said->warmup * 1e9));
  double cpu = cpu_s(said), busy = busy_s();
  int64_t start = now_ns();
  uint64_t before = shared->bytes;
  sleep_until(start + (int64_t)(said->seconds * 1e9));
  uint64_t bytes = shared->bytes - before;
  int64_t took = now_ns() - start;
  printf("{\"bytes\": %lu, \"seconds\": %.6f, \"cpu_s\": %.6f, \"busy_s\": %.6f}\n", bytes, took / 1e9,
         cpu_s(said) - cpu, busy_s() - busy);
}
