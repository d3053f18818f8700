"""The page: its console blocks, the commands in them, and what they print.

A block is fenced by ```console. In it, a line that begins with `$ ` is a command, which goes on in the next line after a backslash; what
follows is what it prints. `^C` is a Ctrl-C, pressed once the screen is as shown above it. Blocks of ```console second terminal belong to
another shell. A comment <!-- Ctrl-C at: PATTERN --> above a block says when `run --write` presses it.
"""

import re
from dataclasses import dataclass, field

FENCE = re.compile(r"^```console( second terminal)?$")
MOMENT = re.compile(r"^<!-- Ctrl-C at: (.*) -->$")
INTERRUPT = "^C"


@dataclass
class Command:
    """A command, or the rest of one that was begun in an earlier block (then it has no text)."""

    text: str
    # Line of the page, counted from 1, and of what is printed first.
    line: int
    printed_from: int
    printed: list = field(default_factory=list)


@dataclass
class Block:
    """A console block."""

    heading: str
    line: int
    second: bool
    moment: str
    commands: list = field(default_factory=list)

    def written(self):
        """Its lines, between the fences."""
        lines = []
        for command in self.commands:
            if command.text:
                lines += f"$ {command.text}".split("\n")
            lines += command.printed
        return lines


def read(text):
    """The blocks of a page, in order."""
    blocks, heading, moment, block, whole = [], "", "", None, True
    for number, line in enumerate(text.split("\n"), 1):
        if block is None:
            if line.startswith("#"):
                heading = line.lstrip("# ")
            elif match := MOMENT.match(line):
                moment = match[1]
            elif match := FENCE.match(line):
                block = Block(heading, number, bool(match[1]), moment)
                moment, whole = "", True
        elif line == "```":
            blocks.append(block)
            block = None
        elif not whole:
            command = block.commands[-1]
            command.text += f"\n{line}"
            command.printed_from = number + 1
            whole = not line.endswith("\\")
        elif line.startswith("$ "):
            block.commands.append(Command(line[2:], number, number + 1))
            whole = not line.endswith("\\")
        else:
            if not block.commands:
                block.commands.append(Command("", number, number))
            block.commands[-1].printed.append(line)
    if block is not None:
        raise SystemExit(f"the block that begins in line {block.line} does not end")
    return blocks


def rewritten(text, blocks):
    """The page with what the blocks say now."""
    lines, result, at = text.split("\n"), [], 0
    for block in blocks:
        result += lines[at : block.line]
        result += block.written()
        at = lines.index("```", block.line)
    return "\n".join(result + lines[at:])
