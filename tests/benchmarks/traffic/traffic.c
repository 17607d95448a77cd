/* Traffic between two network namespaces, measured: one process that reaches into both.
 *
 *   traffic tcp|udp|rr KEY=VALUE ...
 *
 * near_ns, far_ns: paths of namespaces; near_ip, far_ip: addresses in them; seconds, warmup; flows; size; rate;
 * segments (udp: datagrams a UDP_SEGMENT send, 1 without); both=1 (tcp: both directions at once); load=1 (rr: beside
 * a TCP flow); apart=1 (rr: each end on a CPU of its own); pid=N, again and again: the forwarder's processes, whose
 * CPU time is told. Writes one JSON object.
 *
 * Senders and receivers are processes, not threads, and nothing else is pinned: that is what programs look like. */
#define _GNU_SOURCE
#include "traffic.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

void fail(const char *what) {
  perror(what);
  exit(1);
}

int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

void sleep_until(int64_t when_ns) {
  struct timespec when = {when_ns / 1000000000LL, when_ns % 1000000000LL};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL))
    ;
}

double cpu_s(const struct options *said) {
  double sum = 0;
  for (int i = 0; i < said->n_pids; i++) {
    struct timespec used;
    clockid_t clock = (clockid_t)(~(unsigned)said->pids[i] << 3 | 2); /* clock_getcpuclockid(): CPUCLOCK_SCHED */
    if (clock_gettime(clock, &used))
      fail("a forwarder's CPU clock");
    sum += used.tv_sec + used.tv_nsec / 1e9;
  }
  return sum;
}

double busy_s(void) {
  unsigned long long user, nice, system, idle, wait, irq, softirq;
  FILE *stat = fopen("/proc/stat", "re");
  if (!stat || fscanf(stat, "cpu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle, &wait, &irq,
                      &softirq) != 7)
    fail("/proc/stat");
  fclose(stat);
  return (double)(user + nice + system + irq + softirq) / sysconf(_SC_CLK_TCK);
}

int socket_in(const char *netns, const char *ip, int type) {
  int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  int there = open(netns, O_RDONLY | O_CLOEXEC);
  if (home < 0 || there < 0 || setns(there, CLONE_NEWNET))
    fail(netns);
  int fd = socket(AF_INET, type, 0);
  if (fd < 0 || setns(home, CLONE_NEWNET))
    fail("socket");
  close(home);
  close(there);
  struct sockaddr_in at = {.sin_family = AF_INET};
  if (inet_pton(AF_INET, ip, &at.sin_addr) != 1 || bind(fd, (struct sockaddr *)&at, sizeof at))
    fail(ip);
  return fd;
}

void connect_to(int fd, int peer) {
  struct sockaddr_in at;
  socklen_t size = sizeof at;
  if (getsockname(peer, (struct sockaddr *)&at, &size) || connect(fd, (struct sockaddr *)&at, size))
    fail("connect");
}

pid_t spawn(void) {
  pid_t parent = getpid(), child = fork();
  if (child < 0)
    fail("fork");
  if (!child) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
      _exit(1);
  }
  return child;
}

void end(pid_t child) {
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
}

static void take(struct options *said, const char *key, const char *value) {
  if (!strcmp(key, "near_ns"))
    said->near_ns = value;
  else if (!strcmp(key, "far_ns"))
    said->far_ns = value;
  else if (!strcmp(key, "near_ip"))
    said->near_ip = value;
  else if (!strcmp(key, "far_ip"))
    said->far_ip = value;
  else if (!strcmp(key, "seconds"))
    said->seconds = atof(value);
  else if (!strcmp(key, "warmup"))
    said->warmup = atof(value);
  else if (!strcmp(key, "rate"))
    said->rate = atof(value);
  else if (!strcmp(key, "flows"))
    said->flows = atoi(value);
  else if (!strcmp(key, "size"))
    said->size = atoi(value);
  else if (!strcmp(key, "segments"))
    said->segments = atoi(value);
  else if (!strcmp(key, "both"))
    said->both = atoi(value);
  else if (!strcmp(key, "load"))
    said->load = atoi(value);
  else if (!strcmp(key, "apart"))
    said->apart = atoi(value);
  else if (!strcmp(key, "pid") && said->n_pids < MAX_PIDS)
    said->pids[said->n_pids++] = atoi(value);
  else {
    fprintf(stderr, "traffic: %s?\n", key);
    exit(2);
  }
}

int main(int argc, char **argv) {
  struct options said = {.seconds = 1, .flows = 1, .size = 64, .segments = 1};
  for (int i = 2; i < argc; i++) {
    char *value = strchr(argv[i], '=');
    if (value)
      *value++ = 0;
    take(&said, argv[i], value ? value : "");
  }
  if (argc < 2 || !said.near_ns || !said.far_ns || !said.near_ip || !said.far_ip || said.flows < 1 ||
      said.flows > MAX_FLOWS || said.size < 16) {
    fprintf(stderr, "traffic tcp|udp|rr near_ns=PATH far_ns=PATH near_ip=ADDRESS far_ip=ADDRESS ...\n");
    return 2;
  }
  struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED)
    fail("mmap");
  alarm(20 + (unsigned)(said.seconds + said.warmup)); /* a link that carries nothing must not hold us for ever */
  prctl(PR_SET_TIMERSLACK, 1);
  if (!strcmp(argv[1], "tcp"))
    run_tcp(&said, shared);
  else if (!strcmp(argv[1], "udp"))
    run_udp(&said, shared);
  else if (!strcmp(argv[1], "rr"))
    run_rr(&said, shared);
  else
    return 2;
  return 0;
}
