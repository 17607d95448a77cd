/* Many flows of stamped datagrams in one process, slow and exact: it knows when each was sent, and tells of each that is lost.
 *
 * On standard input, a line each:
 *   add NETNS MARK SIDE RATE   hear what comes in; and, when told to go, send about RATE a second by whatever device is there
 *   go                         begin to send, all that have not begun
 *   tell                       say how it stands, in a line of JSON
 *   end                        send no more; what is under way is still heard
 * On standard output, besides, a line of JSON for each event: what of (mark, side) was lost, late, doubled, foreign or corrupt.
 * A pair is the flows of one mark, whatever their side. Times are CLOCK_MONOTONIC in nanoseconds: from_ns is when the first
 * of the frames had been sent at the latest, to_ns when the last of them was at the earliest. */
#define _GNU_SOURCE
#include "stamp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
  FLOWS = 64,
  MARKS = 256,
  RUN = 8,             /* datagrams at a time, at most: some to be coalesced, some alone */
  LOG = 1 << 16,       /* datagrams of a flow that are remembered */
  TICK_MS = 5,
  LATE_NS = 50000000,  /* a sender that was kept from its core makes up for no more */
  LOOK_AGAIN_NS = 20000000,
  PAUSE_NS = 250000000, /* several times what is between two runs */
  RCVBUF = 16 << 20,
};

struct flow {
  uint32_t mark, side;
  double rate;
  int netns, send_fd, hear_fd, ifindex;
  int64_t due_ns, look_ns;
  uint64_t number, next;                       /* to be sent; to be heard of by whoever is across */
  uint64_t refused, heard, lost, late, doubled; /* of what this flow sent */
  uint64_t foreign, corrupt, socket_drops;      /* of what this flow's socket heard */
  int64_t heard_ns;                             /* when the last one heard was sent, at the earliest */
  int64_t before[LOG], after[LOG];
  bool got[LOG];
};

static struct flow *flows_made[FLOWS], *by_mark[MARKS][SIDES];
static int count, going; /* the first so many flows send */

static void event(const char *what, const struct flow *flow, uint64_t first, uint64_t frames) {
  printf("{\"event\": \"%s\", \"mark\": %u, \"side\": %u, \"first\": %" PRIu64 ", \"frames\": %" PRIu64
         ", \"from_ns\": %" PRId64 ", \"to_ns\": %" PRId64 "}\n",
         what, flow->mark, flow->side, first, frames, flow->after[first % LOG], flow->before[(first + frames - 1) % LOG]);
}

static void add(char *line) {
  struct flow *flow = calloc(1, sizeof *flow);
  char netns[256];
  if (!flow || count == FLOWS || sscanf(line, "add %255s %u %u %lf", netns, &flow->mark, &flow->side, &flow->rate) != 4 ||
      flow->mark >= MARKS || flow->side >= SIDES || by_mark[flow->mark][flow->side]) {
    fprintf(stderr, "not to be added: %s", line);
    exit(2);
  }
  if ((flow->netns = open(netns, O_RDONLY | O_CLOEXEC)) < 0 || setns(flow->netns, CLONE_NEWNET) < 0)
    fail(netns);
  flow->send_fd = packet_socket();
  flow->hear_fd = hearing_socket(RCVBUF);
  flow->due_ns = now_ns();
  flows_made[count++] = by_mark[flow->mark][flow->side] = flow;
}

/* One by one: what a call for several answers does not say which of them was refused. */
static void send_run(struct flow *flow, int frames) {
  static struct packet packet;
  struct sockaddr_ll to = {
      .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_halen = 6, .sll_ifindex = flow->ifindex};
  size_t payload = PAYLOAD_MIN + flow->number * 211 % (PAYLOAD_MAX - PAYLOAD_MIN + 1);
  while (frames-- > 0) {
    size_t length = build(&packet, flow->mark, flow->side, frames ? payload : PAYLOAD_MIN, flow->number);
    size_t place = flow->number % LOG;
    flow->got[place] = false;
    flow->before[place] = now_ns();
    if (sendto(flow->send_fd, &packet, length, 0, (struct sockaddr *)&to, sizeof to) < 0) {
      if (errno == ENOBUFS) { /* the queue is full, and the device counts it; its number is the next one's */
        flow->refused++;
        return;
      }
      if (errno == EMSGSIZE) /* a small MTU here: so it was never sent */
        return;
      flow->ifindex = 0; /* down, gone, or moved: it may have another index by now */
      if (errno != ENETDOWN && errno != ENXIO && errno != ENODEV)
        fail("sendto");
      return;
    }
    flow->after[place] = now_ns();
    flow->number++;
  }
}

static void send_due(struct flow *flow) {
  int64_t now = now_ns();
  if (!flow->ifindex && now >= flow->look_ns) {
    flow->look_ns = now + LOOK_AGAIN_NS;
    if (setns(flow->netns, CLONE_NEWNET) < 0)
      fail("setns");
    flow->ifindex = device();
  }
  if (!flow->ifindex || now < flow->due_ns)
    return;
  int frames = 1 + flow->number / 3 * 5 % RUN;
  flow->due_ns += (int64_t)(frames / flow->rate * 1e9);
  if (now > flow->due_ns + LATE_NS)
    flow->due_ns = now;
  send_run(flow, frames);
}

/* Frames between which the flow paused, as it had no device, are events of their own. */
static void tell_lost(struct flow *flow, uint64_t first, uint64_t end) {
  flow->lost += end - first;
  for (uint64_t number = first + 1; number < end; number++)
    if (flow->before[number % LOG] - flow->after[(number - 1) % LOG] > PAUSE_NS) {
      event("lost", flow, first, number - first);
      first = number;
    }
  event("lost", flow, first, end - first);
}

static void look(struct flow *hearer, const uint8_t *payload, size_t length) {
  struct stamp stamp;
  struct flow *flow;
  if (!whole(payload, length, &stamp)) {
    hearer->corrupt++;
    event("corrupt", hearer, 0, 1);
    return;
  }
  flow = stamp.mark < MARKS ? by_mark[stamp.mark][stamp.side] : NULL;
  if (stamp.mark != hearer->mark || stamp.side == hearer->side || !flow) {
    hearer->foreign++;
    event("foreign", flow ? flow : hearer, stamp.number, 1);
    return;
  }
  if (flow->got[stamp.number % LOG]) {
    flow->doubled++;
    event("doubled", flow, stamp.number, 1);
    return;
  }
  flow->got[stamp.number % LOG] = true;
  flow->heard++;
  if (stamp.number < flow->next) {
    flow->lost--;
    flow->late++;
    event("late", flow, stamp.number, 1);
    return;
  }
  if (stamp.number > flow->next)
    tell_lost(flow, flow->next, stamp.number);
  flow->next = stamp.number + 1;
  flow->heard_ns = flow->before[stamp.number % LOG];
}

static void hear(struct flow *flow) {
  static uint8_t data[sizeof(struct virtio_net_hdr) + 14 + 65536];
  ssize_t got;
  while ((got = recv(flow->hear_fd, data, sizeof data, MSG_DONTWAIT)) >= 0 || errno == ENETDOWN) {
    struct virtio_net_hdr vnet;
    const uint8_t *frame = data + sizeof vnet;
    if (got < (ssize_t)sizeof vnet || !stamped(frame, got - sizeof vnet))
      continue;
    memcpy(&vnet, data, sizeof vnet);
    size_t length = got - sizeof vnet, segment = vnet.gso_type ? vnet.gso_size : length - HEADERS;
    for (size_t at = HEADERS; at < length; at += segment)
      look(flow, frame + at, at + segment < length ? segment : length - at);
  }
  if (errno != EAGAIN)
    fail("recv");
}

static void tell(void) {
  printf("{\"at_ns\": %" PRId64 ", \"flows\": [", now_ns());
  for (int i = 0; i < count; i++) {
    struct flow *flow = flows_made[i];
    struct tpacket_stats stats = {0};
    socklen_t stats_len = sizeof stats;
    if (getsockopt(flow->hear_fd, SOL_PACKET, PACKET_STATISTICS, &stats, &stats_len) < 0)
      fail("PACKET_STATISTICS");
    flow->socket_drops += stats.tp_drops; /* reading sets it to zero */
    printf("%s{\"mark\": %u, \"side\": %u, \"sent\": %" PRIu64 ", \"refused\": %" PRIu64 ", \"heard\": %" PRIu64
           ", \"lost\": %" PRIu64 ", \"late\": %" PRIu64 ", \"doubled\": %" PRIu64 ", \"foreign\": %" PRIu64
           ", \"corrupt\": %" PRIu64 ", \"socket_drops\": %" PRIu64 ", \"heard_ns\": %" PRId64 "}",
           i ? ", " : "", flow->mark, flow->side, flow->number, flow->refused, flow->heard, flow->lost, flow->late,
           flow->doubled, flow->foreign, flow->corrupt, flow->socket_drops, flow->heard_ns);
  }
  printf("]}\n");
}

/* Carries out the lines that have come; false at the end of input. */
static bool obey(void) {
  static char buffer[4096];
  static size_t filled;
  ssize_t got = read(0, buffer + filled, sizeof buffer - 1 - filled);
  if (got <= 0)
    return false;
  filled += got;
  buffer[filled] = 0;
  char *line = buffer, *end;
  for (; (end = strchr(line, '\n')); line = end + 1) {
    *end = 0;
    if (!strncmp(line, "add ", 4))
      add(line);
    else if (!strcmp(line, "go"))
      going = count;
    else if (!strcmp(line, "end"))
      going = 0;
    else
      tell();
  }
  filled -= line - buffer;
  memmove(buffer, line, filled);
  return true;
}

int flows(int argc, char **argv) {
  struct pollfd polls[1 + FLOWS];
  (void)argc, (void)argv;
  printf("ready\n");
  for (;;) {
    fflush(stdout);
    polls[0] = (struct pollfd){.fd = 0, .events = POLLIN};
    for (int i = 0; i < count; i++)
      polls[1 + i] = (struct pollfd){.fd = flows_made[i]->hear_fd, .events = POLLIN};
    int heard = count;
    if (poll(polls, 1 + heard, TICK_MS) < 0 && errno != EINTR)
      fail("poll");
    for (int i = 0; i < heard; i++)
      hear(flows_made[i]); /* a look costs little, and a frame told of is one that was looked for */
    if (polls[0].revents && !obey())
      return 0;
    for (int i = 0; i < going; i++)
      send_due(flows_made[i]);
  }
}
