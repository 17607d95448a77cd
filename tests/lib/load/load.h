/* Traffic that knows whose it is: what the parts of the program share. */
#pragma once
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define fail(what)                                                                                                      \
  do {                                                                                                                  \
    perror(what);                                                                                                       \
    exit(1);                                                                                                            \
  } while (0)

static inline int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

void enter(const char *netns);       /* moves the calling thread there */
int frames(int argc, char **argv);   /* frames.c */
int flows(int argc, char **argv);    /* flows.c */
int stream(int argc, char **argv);   /* stream.c */
