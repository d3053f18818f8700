"""Tests of what plays the tutorial; `run` begins with them, since a comparison that finds nothing would let everything pass."""

import os
import unittest

import page
from compare import comparable, difference
from shell import Late, Shell
from terminal import Terminal

PAGE = """\
# Title
## First
```console
$ echo one
one
$ echo two \\
    three
two three
```
<!-- Ctrl-C at: [0-9]+ -->
```console second terminal
$ forever
1
^C
```
```
not a block
```
"""

# Told by two runs of the same story.
SAME = (
    ("digits  10 %  12s", "digits   10 %  3m4s"),
    ("Message    run 2, step 1/2: 9 s to go", "Message    run 2, step 1/2: 10 s to go"),
    ("  digits-8c1d5e07f3  1 204  0  3  12.3 ms", "  digits-8c1d5e07f3    804  0  0   9 ms"),
    ("stoker-7b9d5f6c4d-x2x4z  1/1  Running", "stoker-66bcd9f7d4-qqw9k  1/1  Running"),
    ("candidate failed 34 of 120 requests, stable 0 of 1080", "candidate failed 9 of 41 requests, stable 0 of 370"),
    ("Message    it is\n           long", "Message    it\n           is long"),
)
# Told by a story that went another way.
OTHER = (
    ("weight 10 %", "weight 50 %"),
    ("  digits-8c1d5e07f3  1 204  0  3  12.3 ms", "  digits-8c1d5e07f3  1 204  1  3  12.3 ms"),
    ("candidate failed 34 of 120 requests, stable 0 of 1080", "candidate failed 34 of 120 requests, stable 1 of 1080"),
    ("digits-8c1d5e07f3  2/2 ready", "digits-1f0c22ab90  2/2 ready"),
    ("digits-8c1d5e07f3  2/2 ready", "digits-8c1d5e07f3  1/2 ready"),
    ("12s of 2m", "12s of 3m"),
    ("1 weight 10 %, for 20s", "1 weight 10 %, for 30s"),
    ("Healthy", ""),
)


class Player(unittest.TestCase):
    def test_a_page_is_read_and_written_again(self):
        blocks = page.read(PAGE)
        told = [[(command.text, command.printed) for command in block.commands] for block in blocks]
        self.assertEqual(told, [[("echo one", ["one"]), ("echo two \\\n    three", ["two three"])], [("forever", ["1", "^C"])]])
        self.assertEqual([(block.heading, block.second, block.moment) for block in blocks], [("First", False, ""), ("First", True, "[0-9]+")])
        self.assertEqual(page.rewritten(PAGE, blocks), PAGE)
        blocks[0].commands[0].printed = ["1", "2"]
        self.assertEqual(page.rewritten(PAGE, blocks), PAGE.replace("one\none\n", "one\n1\n2\n"))

    def test_what_tells_the_same_is_the_same(self):
        for one, other in SAME:
            self.assertEqual(difference(one.split("\n"), other.split("\n")), [], comparable([one]))

    def test_what_tells_another_thing_is_another(self):
        for one, other in OTHER:
            self.assertTrue(difference([one], [other]), one)

    def test_a_screen_is_drawn_over_the_one_before(self):
        terminal = Terminal(10, 4)
        terminal.feed("one\r\ntwo\r\n\x1b[1mthree\x1b[0m\r\n")
        terminal.feed("\r\x1b[3A1\x1b[K\r\n2\x1b[")
        terminal.feed("K\r\n\x1b[J")
        self.assertEqual((terminal.text(), any(terminal.wrapped)), (["1", "2"], False))
        terminal.feed("0123456789abc\r\n\x1b]told\x07")
        self.assertEqual((terminal.text(), any(terminal.wrapped)), (["1", "2", "0123456789abc"], True))
        self.assertEqual(terminal.told, ["told"])
        # What has left the screen is out of the cursor's reach.
        terminal = Terminal(10, 2)
        terminal.feed("1\r\n2\r\n3\x1b[9A\rx")
        self.assertEqual(terminal.text(), ["1", "x", "3"])

    def test_a_shell_keeps_its_state_and_outlives_ctrl_c(self):
        shell = Shell(["env"], "/", os.environ)
        self.addCleanup(shell.close)

        def typed(command):
            shell.begin(command)
            shell.wait(shell.ended, 20)
            return shell.terminal.text()

        self.assertEqual(typed("x=5; false"), [])
        self.assertEqual(typed("echo $? $x; test -t 0; echo $?"), ["1 5", "0"])
        shell.begin("echo begun; sleep 60")
        shell.wait(lambda: shell.terminal.text() == ["begun"], 20)
        with self.assertRaises(Late):
            shell.wait(shell.ended, 0.1)
        shell.interrupt()
        shell.wait(shell.ended, 20)
        self.assertEqual((shell.terminal.text(), shell.terminal.told), (["begun", "^C"], ["ended 130"]))
        self.assertEqual(typed("echo still here"), ["still here"])
