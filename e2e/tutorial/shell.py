"""A shell in a terminal of its own: commands are typed into it one after the other, and what they print is seen as a person sees it."""

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time

from terminal import Terminal

COLUMNS, ROWS = 100, 60
# How long a command may take. None of the page needs a third of it on two cores that others use as well.
DEADLINE = 150
# Each command is read from a pipe, so that the terminal is its input, and is run in this shell, so that variables and `$?` last. Its end
# is told through the terminal itself: what it printed before has arrived then. The shell outlives Ctrl-C as an interactive one does.
LOOP = r"""
trap : INT
status=0
while IFS= read -r -d '' command <&{pipe}; do
  (exit "$status")
  eval "$command" {pipe}<&-
  status=$?
  printf '\033]ended %s\007' "$status"
done
"""


class Late(Exception):
    """What was waited for did not come."""


class Shell:
    """A shell, started by `command` (words; bash is added)."""

    def __init__(self, command, folder, environment):
        reading, self.pipe = os.pipe()
        loop = LOOP.replace("{pipe}", str(reading))
        self.terminal = Terminal(COLUMNS, ROWS)
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            # In the child: nothing of Python's may run after an error.
            try:
                os.chdir(folder)
                # Whoever was started in the background ignores Ctrl-C, and hands that on.
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.set_inheritable(reading, True)
                os.execvpe(command[0], [*command, "bash", "--noprofile", "--norc", "-c", loop], environment)
            finally:
                os._exit(127)
        os.close(reading)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))

    def begin(self, command):
        """Types a command, onto an empty screen."""
        self.terminal = Terminal(COLUMNS, ROWS)
        os.write(self.pipe, command.encode() + b"\0")

    def clear(self):
        """Goes on with an empty screen."""
        told, self.terminal = self.terminal.told, Terminal(COLUMNS, ROWS)
        self.terminal.told = told

    def interrupt(self):
        """Presses Ctrl-C."""
        os.write(self.master, b"\x03")

    def wait(self, enough, deadline=DEADLINE):
        """Reads until `enough()`; raises Late after the deadline, or when the shell itself has ended."""
        end = time.monotonic() + deadline
        while not enough():
            left = end - time.monotonic()
            if left <= 0:
                raise Late(f"nothing more after {deadline} s")
            if select.select([self.master], [], [], min(left, 1))[0]:
                try:
                    read = os.read(self.master, 65536)
                except OSError:
                    read = b""
                if not read:
                    raise Late("the shell has ended")
                self.terminal.feed(read.decode(errors="replace"))

    def ended(self):
        """Whether the command has ended."""
        return bool(self.terminal.told)

    def close(self):
        """Ends the shell and what runs in it."""
        os.close(self.pipe)
        # The terminal's end is a SIGHUP for all in front of it.
        os.close(self.master)
        end = time.monotonic() + 10
        while os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > end:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                return
            time.sleep(0.05)
