/* What the kinds of traffic share. See traffic.c for the command line. */
#ifndef TRAFFIC_H
#define TRAFFIC_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

enum { MAX_FLOWS = 16, MAX_PIDS = 16, MAX_SAMPLES = 1 << 18 };

/* The end that sends (near) and the one that receives (far), and what is sent. Rates in datagrams a second, 0 for as
 * many as go; sizes in bytes of payload. */
struct options {
  const char *near_ns, *far_ns, *near_ip, *far_ip;
  double seconds, warmup, rate;
  int flows, size, segments, both, load, apart;
  pid_t pids[MAX_PIDS];
  int n_pids;
};

/* Memory that all our processes see. */
struct shared {
  _Atomic uint64_t received, bytes, reordered, foreign;
  _Atomic int64_t first_ns, last_ns;
  uint32_t samples_ns[MAX_SAMPLES];
};

void run_tcp(const struct options *said, struct shared *shared);
void run_udp(const struct options *said, struct shared *shared);
void run_rr(const struct options *said, struct shared *shared);

/* Begins TCP flows from near to far, or back, in processes of their own that count into shared->bytes. */
void start_tcp(const struct options *said, struct shared *shared, int flows, int back);

_Noreturn void fail(const char *what);
int64_t now_ns(void);
void sleep_until(int64_t when_ns);
/* CPU time that the processes of said->pids have used, all threads, dead ones too. */
double cpu_s(const struct options *said);
/* CPU time that the whole machine has used, without idleness and what the hypervisor took away. */
double busy_s(void);
/* A socket that lives in a namespace, bound to an address and a port of the kernel's choice. */
int socket_in(const char *netns, const char *ip, int type);
void connect_to(int fd, int peer);
/* Forks; the child dies with its parent. Returns as fork() does. */
pid_t spawn(void);
void end(pid_t child);

#endif
