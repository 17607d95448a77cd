/* Frames: UDP datagrams by packet sockets, so that they need no address and survive what happens to the device.
 *
 * The sender sends runs of datagrams that may be coalesced (checksum to be completed, ids that count up), of a size that
 * changes from run to run. It sends by whichever device of the namespace takes them, and looks for another where one is
 * gone. RATE is datagrams a second: a device without carrier takes and drops them as fast as they come, so "as many as
 * go" would leave nothing to others. The receiver hears every device of the namespace, cuts super-frames apart and looks
 * at each datagram's stamp and at every byte behind it. */
#define _GNU_SOURCE
#include "stamp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
  RUN = 32,
  TICK_NS = 5000000, /* between the runs of a slow sender */
  LATE_NS = 10000000, /* a sender that was kept from its core makes up for no more */
  NAP_NS = 200000,
  LOOK_AGAIN_NS = 500000, /* where there is no device */
  FULL_NS = 500000,       /* in which no forwarder empties a queue of 1,000 */
  QUIET_MS = 1000,
  RCVBUF = 64 << 20,
};

static struct {
  uint32_t mark, side;
  double rate;
  atomic_bool over, sent_all;
  atomic_ullong sent, refused, received, foreign, corrupt, reordered;
  unsigned long long socket_drops;
} it;

static void *send_all(void *netns) {
  static struct packet packets[RUN];
  struct mmsghdr messages[RUN] = {0};
  struct iovec parts[RUN];
  struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_halen = 6};
  uint64_t number = 0, run = 0;
  int64_t due = now_ns();
  int fd;
  enter(netns);
  fd = packet_socket();
  for (int i = 0; i < RUN; i++) {
    parts[i].iov_base = &packets[i];
    messages[i].msg_hdr = (struct msghdr){.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &parts[i], .msg_iovlen = 1};
  }
  while (!it.over) {
    int count = it.rate * TICK_NS / 1e9;
    count = count < 1 ? 1 : count > RUN ? RUN : count;
    due += (int64_t)(count / it.rate * 1e9);
    if (now_ns() > due + LATE_NS)
      due = now_ns();
    while (now_ns() < due && !it.over)
      nanosleep(&(struct timespec){0, NAP_NS}, NULL);
    if (!to.sll_ifindex && !(to.sll_ifindex = device())) {
      nanosleep(&(struct timespec){0, LOOK_AGAIN_NS}, NULL);
      continue;
    }
    size_t payload = PAYLOAD_MIN + (run++ * 211) % (PAYLOAD_MAX - PAYLOAD_MIN + 1);
    for (int i = 0; i < count; i++)
      parts[i].iov_len = build(&packets[i], it.mark, it.side, i + 1 < count ? payload : PAYLOAD_MIN, number++);
    for (int done = 0; done < count;) {
      int more = sendmmsg(fd, messages + done, count - done, 0);
      if (more >= 0) {
        it.sent += more;
        done += more;
        continue;
      }
      if (errno != ENOBUFS) { /* down, gone, or moved: it may have another index by now */
        to.sll_ifindex = 0;
        if (errno != ENETDOWN && errno != ENXIO && errno != ENODEV)
          fail("sendmmsg");
        nanosleep(&(struct timespec){0, LOOK_AGAIN_NS}, NULL);
        break;
      }
      it.refused++; /* the queue is full, and the device counts it: the forwarder has all the load that it can have */
      done++;
      nanosleep(&(struct timespec){0, FULL_NS}, NULL);
    }
  }
  close(fd);
  it.sent_all = true;
  return NULL;
}

static void look(const uint8_t *payload, size_t length) {
  static uint64_t next[SIDES];
  struct stamp stamp;
  if (!whole(payload, length, &stamp)) {
    it.corrupt++;
    return;
  }
  if (stamp.mark != it.mark || stamp.side == it.side) {
    it.foreign++;
    return;
  }
  if (stamp.number < next[stamp.side])
    it.reordered++;
  next[stamp.side] = stamp.number + 1;
  it.received++;
}

static void *receive_all(void *netns) {
  static uint8_t data[sizeof(struct virtio_net_hdr) + 14 + 65536];
  struct tpacket_stats stats;
  socklen_t stats_len = sizeof stats;
  int fd;
  enter(netns);
  fd = hearing_socket(RCVBUF);
  printf("ready\n");
  fflush(stdout);
  for (;;) {
    ssize_t got = recv(fd, data, sizeof data, MSG_DONTWAIT);
    if (got < 0) {
      struct pollfd wait = {.fd = fd, .events = POLLIN};
      if (errno != EAGAIN && errno != ENETDOWN)
        fail("recv");
      /* what is on its way when the senders stop is there within a queue's time */
      bool last = it.sent_all;
      if (poll(&wait, 1, last ? QUIET_MS : 20) == 0 && last)
        break;
      continue;
    }
    struct virtio_net_hdr vnet;
    memcpy(&vnet, data, sizeof vnet);
    const uint8_t *frame = data + sizeof vnet;
    size_t length = got - sizeof vnet;
    if (!stamped(frame, length))
      continue;
    size_t segment = vnet.gso_type ? vnet.gso_size : length - HEADERS;
    for (size_t at = HEADERS; at < length; at += segment)
      look(frame + at, at + segment < length ? segment : length - at);
  }
  if (getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &stats_len) < 0)
    fail("PACKET_STATISTICS");
  it.socket_drops = stats.tp_drops;
  close(fd);
  return NULL;
}

int frames(int argc, char **argv) {
  pthread_t sender, receiver;
  char ignored[16];
  (void)argc;
  it.mark = strtoul(argv[3], NULL, 10);
  it.side = strtoul(argv[4], NULL, 10);
  it.rate = strtod(argv[5], NULL);
  if (pthread_create(&receiver, NULL, receive_all, argv[2]) || pthread_create(&sender, NULL, send_all, argv[2]))
    fail("pthread_create");
  while (read(0, ignored, sizeof ignored) > 0)
    ;
  it.over = true;
  pthread_join(sender, NULL);
  pthread_join(receiver, NULL);
  printf("{\"sent\": %llu, \"refused\": %llu, \"received\": %llu, \"foreign\": %llu, \"corrupt\": %llu, "
         "\"reordered\": %llu, \"socket_drops\": %llu}\n",
         it.sent, it.refused, it.received, it.foreign, it.corrupt, it.reordered, it.socket_drops);
  return 0;
}
