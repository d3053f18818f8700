"""Curves as SVG, for the docs: no library, and the same file for the same figures."""

import html
import math

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 34, 46
COLOURS = ("#1b6ca8", "#c8553d", "#5b8c5a", "#8d6cab")


def ticks(most):
    """About five round numbers from 0 to `most`."""
    step = 10 ** math.floor(math.log10(most / 5))
    step = next(step * factor for factor in (1, 2, 5, 10) if step * factor * 6 >= most)
    return [step * number for number in range(int(most / step + 1e-9) + 1)]


def draw(title, x_label, y_label, series, most_y, marks=()):
    """The text of an SVG. `series` is {name: [(x, y)]}; what is above `most_y` is cut off there. `marks` are (y, name) of
    horizontal lines."""
    most_x = max(x for points in series.values() for x, _ in points)
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(x, y):
        return LEFT + inner_width * x / most_x, TOP + inner_height * (1 - min(y, most_y) / most_y)

    def text(x, y, words, anchor="middle", **more):
        extra = "".join(f' {key}="{value}"' for key, value in more.items())
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{html.escape(words)}</text>'

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11" fill="#333">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 18, title, "start", **{"font-size": 13, "font-weight": "bold"}),
    ]
    for tick in ticks(most_y):
        _, y = place(0, tick)
        lines.append(f'<line x1="{LEFT}" x2="{LEFT + inner_width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        lines.append(text(LEFT - 6, y + 4, f"{tick:g}", "end"))
    for tick in ticks(most_x):
        x, y = place(tick, 0)
        lines.append(text(x, y + 16, f"{tick:g}"))
    lines.append(text(LEFT + inner_width / 2, HEIGHT - 10, x_label))
    middle = TOP + inner_height / 2
    lines.append(text(16, middle, y_label, transform=f"rotate(-90 16 {middle:.1f})"))
    for value, name in marks:
        _, y = place(0, value)
        lines.append(f'<line x1="{LEFT}" x2="{LEFT + inner_width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#333" stroke-dasharray="4 3"/>')
        lines.append(text(LEFT + inner_width + 6, y + 4, name, "start"))
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        placed = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        lines.append(f'<polyline points="{placed}" fill="none" stroke="{colour}" stroke-width="2"/>')
        top = TOP + 16 * number + 4
        lines.append(f'<line x1="{WIDTH - RIGHT + 10}" x2="{WIDTH - RIGHT + 28}" y1="{top}" y2="{top}" stroke="{colour}" stroke-width="2"/>')
        lines.append(text(WIDTH - RIGHT + 34, top + 4, name, "start"))
    return "\n".join([*lines, "</svg>"]) + "\n"
