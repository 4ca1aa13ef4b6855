"""Bars, as an SVG."""

import html

#: A column for the names, and the longest bar.
NAMES, LONGEST = 230, 400
ROW = 24

Panel = tuple[str, list[tuple[str, float]]]


def drawing(panels: list[Panel]) -> str:
    """Each panel has a title and a bar for each name, and a scale of its own."""
    lines, top = [], 18
    for title, bars in panels:
        lines.append(f'<text x="{NAMES}" y="{top}" font-weight="bold">{html.escape(title)}</text>')
        most = max((value for _, value in bars), default=0)
        for name, value in bars:
            top += ROW
            width = max(value, 0) / most * LONGEST if most > 0 else 0
            lines.append(f'<text x="{NAMES - 10}" y="{top}" text-anchor="end">{html.escape(name)}</text>')
            lines.append(f'<rect x="{NAMES}" y="{top - 13}" width="{width:.0f}" height="18" fill="#4a7ab5"/>')
            lines.append(f'<text x="{NAMES + 5 + width:.0f}" y="{top}">{value:.2f}</text>')
        top += 2 * ROW
    size = f'width="{NAMES + LONGEST + 70}" height="{top - ROW}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *lines, "</svg>\n"])
