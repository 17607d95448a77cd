/* UDP: one trial. Datagrams are sent at a rate, or as fast as it goes; told is how many were sent and how many arrived.
 *
 * Sent are bursts, each at its time on an absolute schedule. A sender that was kept from its core catches up, but no
 * more than LATE_NS' worth: the rest of the delay moves the schedule, and the rate that is told is the one that was.
 * One flow is one connected socket and sendmmsg(); several are as many sockets, one datagram each by turns. */
#define _GNU_SOURCE
#include "traffic.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
  MAX_BURST = 32,
  BURST_NS = 100000,   /* a burst each 0.1 ms, where the rate asks for no more than MAX_BURST */
  LATE_NS = 1000000,   /* a tenth of what a queue of 1,000 frames holds at 100,000 a second */
  EARLY_NS = 5000,     /* not worth a sleep */
  QUIET_NS = 50000000, /* nothing for so long: what has not come is lost */
  RCVBUF = 8 << 20,    /* some 10,000 datagrams of 64 bytes: a receiver's pause is not the link's loss */
  SO_MEMINFO_DROPS = 8,
};

struct stamp { /* in the head of each datagram */
  uint32_t magic, flow;
  uint64_t number;
};
enum { MAGIC = 0x76657468 };

static _Noreturn void receive(int fd, struct shared *shared) {
  enum { BATCH = 64 };
  static char data[BATCH][2048];
  struct mmsghdr messages[BATCH] = {0};
  struct iovec parts[BATCH];
  uint64_t next[MAX_FLOWS] = {0};
  for (int i = 0; i < BATCH; i++) {
    parts[i] = (struct iovec){data[i], sizeof data[i]};
    messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
  }
  for (;;) {
    int got = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
    if (got < 0)
      fail("recvmmsg");
    uint64_t counted = 0;
    for (int i = 0; i < got; i++) {
      struct stamp stamp;
      memcpy(&stamp, data[i], sizeof stamp);
      if (messages[i].msg_len < sizeof stamp || stamp.magic != MAGIC || stamp.flow >= MAX_FLOWS) {
        shared->foreign++;
        continue;
      }
      counted++;
      if (stamp.number < next[stamp.flow])
        shared->reordered++;
      else
        next[stamp.flow] = stamp.number + 1;
    }
    int64_t now = now_ns();
    if (!shared->first_ns)
      shared->first_ns = now;
    shared->last_ns = now;
    atomic_fetch_add_explicit(&shared->received, counted, memory_order_relaxed);
  }
}

struct sender {
  int fds[MAX_FLOWS], flows, size, segments;
  uint64_t numbers[MAX_FLOWS], sent, refused;
  struct mmsghdr messages[MAX_BURST];
  struct iovec parts[MAX_BURST];
  char *data;
};

static void stamp(struct sender *at, int message, int flow) {
  for (int i = 0; i < at->segments; i++) {
    struct stamp stamp = {MAGIC, flow, at->numbers[flow]++};
    memcpy((char *)at->parts[message].iov_base + (size_t)i * at->size, &stamp, sizeof stamp);
  }
}

/* Sends a burst of messages. What the device refuses (ENOBUFS) was offered and is lost. */
static void burst(struct sender *at, int messages) {
  if (at->flows > 1) {
    for (int i = 0; i < messages; i++) {
      int flow = at->sent / at->segments % at->flows;
      stamp(at, 0, flow);
      if (send(at->fds[flow], at->parts[0].iov_base, at->parts[0].iov_len, 0) < 0) {
        if (errno != ENOBUFS)
          fail("send");
        at->refused += at->segments;
      }
      at->sent += at->segments;
    }
    return;
  }
  for (int i = 0; i < messages; i++)
    stamp(at, i, 0);
  for (int done = 0; done < messages;) {
    int more = sendmmsg(at->fds[0], at->messages + done, messages - done, 0);
    if (more < 0 && errno != ENOBUFS)
      fail("sendmmsg");
    if (more < 0)
      at->refused += at->segments;
    done += more < 0 ? 1 : more;
  }
  at->sent += (uint64_t)messages * at->segments;
}

static void prepare(struct sender *at, const struct options *said, int receiver) {
  at->flows = said->flows;
  at->size = said->size;
  at->segments = said->segments;
  size_t length = (size_t)said->size * said->segments;
  at->data = calloc(MAX_BURST, length);
  for (int i = 0; i < MAX_BURST; i++) {
    at->parts[i] = (struct iovec){at->data + i * length, length};
    at->messages[i].msg_hdr = (struct msghdr){.msg_iov = &at->parts[i], .msg_iovlen = 1};
  }
  for (int i = 0; i < said->flows; i++) {
    at->fds[i] = socket_in(said->near_ns, said->near_ip, SOCK_DGRAM);
    connect_to(at->fds[i], receiver);
    if (said->segments > 1 && setsockopt(at->fds[i], SOL_UDP, UDP_SEGMENT, &said->size, sizeof said->size))
      fail("UDP_SEGMENT");
  }
}

static void send_all(struct sender *at, const struct options *said, int64_t start) {
  double rate = said->rate / said->segments;
  double wanted = rate * BURST_NS / 1e9;
  int messages = !rate || wanted > MAX_BURST ? MAX_BURST : wanted < 1 ? 1 : (int)wanted;
  double due = start, step = rate ? messages / rate * 1e9 : 0;
  for (int64_t now = start, stop = start + (int64_t)(said->seconds * 1e9); now < stop; now = now_ns()) {
    if (rate && due - now > EARLY_NS) {
      sleep_until((int64_t)due);
      now = now_ns();
    }
    if (now - due > LATE_NS)
      due = now - LATE_NS;
    burst(at, messages);
    due += step;
  }
}

void run_udp(const struct options *said, struct shared *shared) {
  struct sender sender = {0};
  int receiver = socket_in(said->far_ns, said->far_ip, SOCK_DGRAM), size = RCVBUF;
  if (setsockopt(receiver, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
    fail("SO_RCVBUFFORCE");
  prepare(&sender, said, receiver);
  pid_t child = spawn();
  if (!child)
    receive(receiver, shared);
  double cpu = cpu_s(said);
  int64_t start = now_ns();
  send_all(&sender, said, start);
  int64_t sent = now_ns(), changed = sent;
  for (uint64_t seen = 0; shared->received < sender.sent && now_ns() - changed < QUIET_NS; sleep_until(now_ns() + 1000000))
    if (seen != shared->received) {
      seen = shared->received;
      changed = now_ns();
    }
  double used = cpu_s(said) - cpu;
  uint32_t memory[16] = {0};
  socklen_t length = sizeof memory;
  if (getsockopt(receiver, SOL_SOCKET, SO_MEMINFO, memory, &length))
    fail("SO_MEMINFO");
  end(child);
  printf("{\"sent\": %lu, \"refused\": %lu, \"received\": %lu, \"reordered\": %lu, \"foreign\": %lu, ", sender.sent,
         sender.refused, shared->received, shared->reordered, shared->foreign);
  printf("\"socket_drops\": %u, \"send_s\": %.6f, \"receive_s\": %.6f, \"cpu_s\": %.6f}\n", memory[SO_MEMINFO_DROPS],
         (sent - start) / 1e9, (shared->last_ns - shared->first_ns) / 1e9, used);
}
