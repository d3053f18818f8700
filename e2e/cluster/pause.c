/* The first process of a pod's sandbox, and of a whole cluster's PID namespace: it waits, collects
 * the children that are handed to it, and ends at SIGTERM or SIGINT. When it ends inside a PID
 * namespace the kernel kills everything else in there. Built with -static, so that an image of it
 * is one file. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal) {
  (void)signal;
  _exit(0);
}

static void collect(int signal) {
  (void)signal;
  while (waitpid(-1, 0, WNOHANG) > 0) {
  }
}

int main(void) {
  signal(SIGINT, end);
  signal(SIGTERM, end);
  signal(SIGCHLD, collect);
  collect(SIGCHLD); /* a child may have ended before the line above */
  for (;;) {
    pause();
  }
}
