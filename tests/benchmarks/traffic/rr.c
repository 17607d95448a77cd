/* UDP request and response: a datagram there and one back, blocking sockets, the next when the last has come. */
#define _GNU_SOURCE
#include "traffic.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>

enum { LOST_US = 200000 };

static _Noreturn void answer(int fd, int size) {
  char *data = calloc(1, size);
  for (;;)
    if (recv(fd, data, size, 0) < 0 || send(fd, data, size, 0) < 0)
      if (errno != ENOBUFS)
        fail("answer");
}

/* Keeps the caller on the nth CPU that it may use, where it may use more than n. */
static void pin(int n) {
  cpu_set_t may, one;
  if (sched_getaffinity(0, sizeof may, &may))
    fail("sched_getaffinity");
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &may) && !n--) {
      CPU_SET(cpu, &one);
      if (sched_setaffinity(0, sizeof one, &one))
        fail("sched_setaffinity");
    }
}

static int less(const void *a, const void *b) {
  uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
  return (left > right) - (left < right);
}

void run_rr(const struct options *said, struct shared *shared) {
  if (said->load)
    start_tcp(said, shared, 1, 0);
  int server = socket_in(said->far_ns, said->far_ip, SOCK_DGRAM);
  int client = socket_in(said->near_ns, said->near_ip, SOCK_DGRAM);
  connect_to(client, server);
  connect_to(server, client);
  struct timeval patience = {0, LOST_US};
  if (setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience))
    fail("SO_RCVTIMEO");
  if (!spawn()) {
    if (said->apart)
      pin(1);
    answer(server, said->size);
  }
  if (said->apart)
    pin(0);
  uint64_t *data = calloc(1, said->size), number = 0;
  uint32_t count = 0, lost = 0;
  double sum = 0, cpu = 0;
  int64_t begin = now_ns() + (int64_t)(said->warmup * 1e9), stop = begin + (int64_t)(said->seconds * 1e9);
  for (int64_t start = now_ns(), now; start < stop && count < MAX_SAMPLES; start = now) {
    if (!cpu && start >= begin)
      cpu = cpu_s(said);
    *data = ++number;
    if (send(client, data, said->size, 0) < 0 && errno != ENOBUFS)
      fail("send");
    int answered;
    do { /* an answer that came too late is nobody's */
      answered = recv(client, data, said->size, 0) > 0;
      if (!answered && errno != EAGAIN)
        fail("recv");
    } while (answered && *data != number);
    lost += !answered;
    now = now_ns();
    if (!answered || start < begin)
      continue;
    shared->samples_ns[count++] = now - start;
    sum += now - start;
  }
  cpu = cpu_s(said) - cpu;
  if (!count) {
    fprintf(stderr, "rr: no answer\n");
    exit(1);
  }
  qsort(shared->samples_ns, count, sizeof *shared->samples_ns, less);
  printf("{\"count\": %u, \"lost\": %u, \"mean_us\": %.2f, \"p50_us\": %.2f, \"p99_us\": %.2f, \"cpu_s\": %.6f}\n", count,
         lost, sum / count / 1e3, shared->samples_ns[count / 2] / 1e3, shared->samples_ns[(uint64_t)count * 99 / 100] / 1e3,
         cpu);
}
