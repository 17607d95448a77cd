/* What system calls cost here: the least of several runs, in nanoseconds a call. Prints "name ns" lines.
 * Run it by itself and under vethd-run.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define RUNS 7

static int udp, rtnl;
static char data[64], reply[32768];
static struct sockaddr_in to;

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void a_getppid(void) { syscall(SYS_getppid); }
static void a_write(void) { if (write(udp, data, sizeof(data)) < 0) _exit(1); }
static void a_sendto(void) { if (sendto(udp, data, sizeof(data), 0, (void *)&to, sizeof(to)) < 0) _exit(1); }

static void a_sendmsg(void)
{
	struct iovec iov = { data, sizeof(data) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	if (sendmsg(udp, &m, 0) < 0)
		_exit(1);
}

static void a_getlink_send(void)
{
	struct { struct nlmsghdr h; struct ifinfomsg i; } q = {
		{ sizeof(q), RTM_GETLINK, NLM_F_REQUEST, 1, 0 }, { .ifi_index = 1 } };
	if (send(rtnl, &q, sizeof(q), 0) < 0)
		_exit(1);
}

static void a_getlink(void)
{
	a_getlink_send();
	if (recv(rtnl, reply, sizeof(reply), 0) <= 0)
		_exit(1);
}

static void a_socket(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd < 0)
		_exit(1);
	close(fd);
}

static void measure(const char *name, void (*call)(void), int times)
{
	long long least = -1;
	for (int run = 0; run < RUNS; run++) {
		long long start = now();
		for (int i = 0; i < times; i++)
			call();
		long long took = now() - start;
		if (least < 0 || took < least)
			least = took;
	}
	printf("%s %.1f\n", name, (double)least / times);
}

int main(void)
{
	to.sin_family = AF_INET;
	to.sin_port = htons(9);
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	udp = socket(AF_INET, SOCK_DGRAM, 0);
	int hearer = socket(AF_INET, SOCK_DGRAM, 0); /* reads nothing: what it has no room for is dropped */
	if (bind(hearer, (void *)&to, sizeof(to)) || connect(udp, (void *)&to, sizeof(to)))
		return 1;
	rtnl = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	measure("getppid", a_getppid, 200000);
	measure("write", a_write, 20000);
	measure("sendto", a_sendto, 20000);
	measure("sendmsg", a_sendmsg, 20000);
	measure("rtnetlink-send-recv", a_getlink, 500);
	measure("rtnetlink-socket", a_socket, 200);
	return 0;
}
