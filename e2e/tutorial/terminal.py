"""A terminal, as far as it takes to know what a person would see: rows, a cursor, and the control sequences that programs here send."""

import re

# Sequences of ECMA-48, and operating system commands; the rest is text and single controls.
PARTS = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b\]([^\x07]*)\x07|([^\x1b])", re.DOTALL)


class Terminal:
    """A screen of so many columns and rows, with all that has scrolled out of it at the top."""

    def __init__(self, columns, rows):
        self.columns, self.rows = columns, rows
        # Characters of each row, and whether the row goes on in the next one because it was too long.
        self.lines, self.wrapped = [[]], [False]
        self.row = self.column = 0
        # What operating system commands said.
        self.told = []
        # The beginning of a sequence whose end has not come yet.
        self.rest = ""

    def feed(self, text):
        """Does what the text says."""
        text = self.rest + text
        at = 0
        while match := PARTS.match(text, at):
            at = match.end()
            if match[2]:
                self.control(match[1], match[2])
            elif match[3] is not None:
                self.told.append(match[3])
            else:
                self.put(match[4])
        self.rest = text[at:]

    def control(self, parameters, final):
        if final == "m":
            return
        if final == "A":
            # The cursor cannot go to what has left the screen.
            self.row = max(self.top(), self.row - int(parameters or 1))
        elif final == "H" and not parameters:
            self.row, self.column = self.top(), 0
        elif final == "J" and parameters in ("", "0"):
            self.erase_line()
            del self.lines[self.row + 1 :], self.wrapped[self.row + 1 :]
        elif final == "J" and parameters == "2":
            for row in range(self.top(), len(self.lines)):
                self.lines[row], self.wrapped[row] = [], False
        elif final == "K" and parameters in ("", "0"):
            self.erase_line()
        else:
            raise ValueError(f"a control sequence that this terminal does not know: ESC [ {parameters} {final}")

    def put(self, character):
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.down()
        elif character >= " ":
            if self.column >= self.columns:
                self.wrapped[self.row] = True
                self.down()
                self.column = 0
            line = self.lines[self.row]
            line.extend(" " * (self.column + 1 - len(line)))
            line[self.column] = character
            self.column += 1

    def down(self):
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append([])
            self.wrapped.append(False)

    def erase_line(self):
        del self.lines[self.row][self.column :]
        self.wrapped[self.row] = False

    def top(self):
        return max(0, len(self.lines) - self.rows)

    def text(self):
        """The lines, each whole, without spaces at their ends, and without empty ones at the end."""
        lines, begun = [], ""
        for line, wrapped in zip(self.lines, self.wrapped):
            begun += "".join(line)
            if not wrapped:
                lines.append(begun.rstrip())
                begun = ""
        if begun:
            lines.append(begun.rstrip())
        while lines and not lines[-1]:
            lines.pop()
        return lines
