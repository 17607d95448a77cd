/* Frames: UDP datagrams by packet sockets, so that they need no address and survive what happens to the device.
 *
 * The sender sends runs of datagrams that may be coalesced (checksum to be completed, ids that count up), of a size that
 * changes from run to run. It sends by whichever device of the namespace takes them, and looks for another where one is
 * gone. RATE is datagrams a second: a device without carrier takes and drops them as fast as they come, so "as many as
 * go" would leave nothing to others. The receiver hears every device of the namespace, cuts super-frames apart and looks
 * at each datagram's stamp and at every byte behind it. */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
  RUN = 32,
  HEADERS = 14 + 20 + 8,
  PAYLOAD_MIN = 64,
  PAYLOAD_MAX = 1400,
  TICK_NS = 5000000, /* between the runs of a slow sender */
  LATE_NS = 10000000, /* a sender that was kept from its core makes up for no more */
  NAP_NS = 200000,
  SIDES = 8,
  MAGIC = 0x76657468,
  LOOK_AGAIN_NS = 500000, /* where there is no device */
  FULL_NS = 500000,       /* in which no forwarder empties a queue of 1,000 */
  RCVBUF = 64 << 20,
};

struct stamp {
  uint32_t magic, mark, side, length;
  uint64_t number;
};

struct packet {
  struct virtio_net_hdr vnet;
  uint8_t bytes[HEADERS + PAYLOAD_MAX];
} __attribute__((packed));

static struct {
  uint32_t mark, side;
  double rate;
  atomic_bool over, sent_all;
  atomic_ullong sent, refused, received, foreign, corrupt, reordered;
  unsigned long long socket_drops;
} it;

static uint8_t fill(uint32_t mark, uint64_t number) { return (uint8_t)(mark * 31 + number); }

static uint32_t sum(const uint8_t *at, size_t length, uint32_t total) {
  for (size_t i = 0; i + 1 < length; i += 2)
    total += at[i] << 8 | at[i + 1];
  return total;
}

static uint16_t folded(uint32_t total) {
  while (total >> 16)
    total = (total & 0xffff) + (total >> 16);
  return total;
}

static void put16(uint8_t *at, uint16_t value) { at[0] = value >> 8, at[1] = value; }

/* Writes the number'th datagram; its UDP checksum is the pseudo header's sum, the rest is the device's. */
static size_t build(struct packet *packet, size_t payload, uint64_t number) {
  uint8_t *eth = packet->bytes, *ip = eth + 14, *udp = ip + 20;
  struct stamp stamp = {MAGIC, it.mark, it.side, payload, number};
  packet->vnet = (struct virtio_net_hdr){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6};
  memcpy(eth, "\x02\0\0\0\xee\2\x02\0\0\0\xee\1\x08\0", 14);
  memcpy(ip, "\x45\0\0\0\0\0\0\0\x40\x11\0\0\x0a\x63\0\0\x0a\x63\0\0", 20);
  put16(ip + 2, 28 + payload);
  put16(ip + 4, number);
  ip[14] = ip[18] = it.mark;
  ip[15] = 1 + it.side;
  ip[19] = 100 + it.side;
  put16(ip + 10, ~folded(sum(ip, 20, 0)));
  put16(udp, 1000 + it.mark);
  put16(udp + 2, 2000 + it.side);
  put16(udp + 4, 8 + payload);
  put16(udp + 6, folded(sum(ip + 12, 8, 17 + 8 + payload)));
  memcpy(udp + 8, &stamp, sizeof stamp);
  memset(udp + 8 + sizeof stamp, fill(it.mark, number), payload - sizeof stamp);
  return sizeof packet->vnet + HEADERS + payload;
}

/* Finds a device that is not lo; 0 where there is none. */
static int device(void) {
  struct if_nameindex *all = if_nameindex();
  int found = 0;
  for (struct if_nameindex *one = all; one && one->if_index; one++)
    if (strcmp(one->if_name, "lo"))
      found = one->if_index;
  if (all)
    if_freenameindex(all);
  return found;
}

static void *send_all(void *netns) {
  static struct packet packets[RUN];
  struct mmsghdr messages[RUN] = {0};
  struct iovec parts[RUN];
  struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_halen = 6};
  uint64_t number = 0, run = 0;
  int64_t due = now_ns();
  int on = 1, fd;
  enter(netns);
  fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) < 0)
    fail("packet socket");
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
      parts[i].iov_len = build(&packets[i], i + 1 < count ? payload : PAYLOAD_MIN, number++);
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
  if (length < sizeof stamp) {
    it.corrupt++;
    return;
  }
  memcpy(&stamp, payload, sizeof stamp);
  if (stamp.magic != MAGIC || stamp.length != length || stamp.side >= SIDES) {
    it.corrupt++;
    return;
  }
  if (stamp.mark != it.mark || stamp.side == it.side) {
    it.foreign++;
    return;
  }
  for (size_t i = sizeof stamp; i < length; i++)
    if (payload[i] != fill(stamp.mark, stamp.number)) {
      it.corrupt++;
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
  int on = 1, size = RCVBUF, fd;
  enter(netns);
  fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) < 0 ||
      setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on) < 0 ||
      setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0)
    fail("packet socket");
  struct sockaddr_ll any = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP)};
  if (bind(fd, (struct sockaddr *)&any, sizeof any) < 0)
    fail("bind");
  printf("ready\n");
  fflush(stdout);
  for (;;) {
    ssize_t got = recv(fd, data, sizeof data, MSG_DONTWAIT);
    if (got < 0) {
      struct pollfd wait = {.fd = fd, .events = POLLIN};
      if (errno != EAGAIN && errno != ENETDOWN)
        fail("recv");
      /* what is on its way when the senders stop is there within a queue's time */
      if (poll(&wait, 1, it.sent_all ? 300 : 20) == 0 && it.sent_all)
        break;
      continue;
    }
    struct virtio_net_hdr vnet;
    memcpy(&vnet, data, sizeof vnet);
    const uint8_t *frame = data + sizeof vnet;
    size_t length = got - sizeof vnet;
    if (length < HEADERS || frame[23] != IPPROTO_UDP || frame[26] != 10 || frame[27] != 99)
      continue; /* a neighbour solicitation's like: nothing of ours */
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
