"""A terminal of a few control characters: what a person sees in the end of all that was written to it."""

from __future__ import annotations


def on_screen(text: str) -> list[str]:
    """The lines on a screen to which a text was written, without blanks at their ends and empty lines at the end."""
    rows, row, column = [""], 0, 0
    for letter in text.replace("\x1b[A", "\x00"):
        if letter == "\r":
            column = 0
        elif letter == "\n":
            row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
        elif letter == "\x00":
            row -= 1
        else:
            rows[row] = rows[row][:column].ljust(column) + letter + rows[row][column + 1 :]
            column += 1
    seen = [line.rstrip() for line in rows]
    while seen and not seen[-1]:
        seen.pop()
    return seen
