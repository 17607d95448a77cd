/* Stamped datagrams: each says whose it is and which, in a packet socket's frames that may be coalesced. */
#pragma once
#include "load.h"

#include <linux/virtio_net.h>
#include <stddef.h>

enum {
  HEADERS = 14 + 20 + 8,
  PAYLOAD_MIN = 64,
  PAYLOAD_MAX = 1400,
  SIDES = 8,
};

struct stamp {
  uint32_t magic, mark, side, length;
  uint64_t number;
};

struct packet {
  struct virtio_net_hdr vnet;
  uint8_t bytes[HEADERS + PAYLOAD_MAX];
} __attribute__((packed));

/* Writes the number'th datagram; its UDP checksum is the pseudo header's sum, the rest is the device's. Gives its length. */
size_t build(struct packet *packet, uint32_t mark, uint32_t side, size_t payload, uint64_t number);
bool stamped(const uint8_t *frame, size_t length);                          /* not a neighbour solicitation's like */
bool whole(const uint8_t *payload, size_t length, struct stamp *stamp);     /* as somebody built it, to the last byte */
int device(void);                                                           /* the index of one that is not lo, or 0 */
int packet_socket(void);                                                    /* in this namespace, with vnet headers */
int hearing_socket(int rcvbuf);                                             /* the same, of all that comes by IPv4 */
