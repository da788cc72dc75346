"""Pixels in the RGB cube with the principal components of the colours, as SVG."""

import numpy as np
from numpy.typing import NDArray

VIEW = np.array([[0.9, -0.1], [0.1, -0.9], [-0.45, 0.4]])  # directions of R, G and B on the page, y down
COLOURS = {"red": "#c33", "green": "#282", "blue": "#55e"}
PAPER, INK, EDGE = (
    "stroke:var(--paper);stroke-width:6",
    "stroke:var(--ink);stroke-width:2.5",
    "stroke:var(--line)",
)


def cloud(
    pixels: NDArray[np.uint8], eigenvalues: NDArray[np.float64], eigenvectors: NDArray[np.float64]
) -> str:
    """An SVG of pixels, uint8 [N, 3], and of the principal components, each two deviations to both sides."""
    center = pixels.mean(axis=0)
    corners = 255.0 * np.array(list(np.ndindex(2, 2, 2)))
    marks = []

    def place(point: NDArray[np.float64]) -> tuple[float, float]:
        x, y = point @ VIEW * 1.6
        return round(float(x), 1), round(float(y), 1)

    def line(begin: NDArray[np.float64], end: NDArray[np.float64], style: str) -> None:
        (x1, y1), (x2, y2) = place(begin), place(end)
        marks.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" style="{style}"/>')

    def label(point: NDArray[np.float64], text: str, colour: str) -> None:
        x, y = place(point)
        marks.append(f'<text x="{x}" y="{y}" style="fill:{colour}" text-anchor="middle">{text}</text>')

    for begin in corners:
        for end in corners:
            if np.abs(end - begin).sum() == 255 and begin.sum() < end.sum():
                line(begin, end, EDGE)
    for channel, (name, colour) in enumerate(COLOURS.items()):
        edge = 255.0 * np.eye(3)[channel]
        line(np.zeros(3), edge, f"stroke:{colour};stroke-width:2")
        label(1.1 * edge, name, colour)
    for pixel in pixels:
        x, y = place(pixel.astype(float))
        red, green, blue = pixel.tolist()
        marks.append(f'<circle cx="{x}" cy="{y}" r="2" fill="rgb({red},{green},{blue})"/>')
    for number, (value, axis) in enumerate(zip(eigenvalues, eigenvectors.T, strict=True), 1):
        reach = 2 * np.sqrt(max(float(value), 0)) * axis
        for style in (PAPER, INK):
            line(center - reach, center + reach, style)
        label(center + reach + 12 * axis, str(number), "var(--ink)")
    seen = np.array([place(corner) for corner in corners])
    left, top = seen.min(axis=0) - 50
    width, height = np.ptp(seen, axis=0) + 100
    box = f"{left:.0f} {top:.0f} {width:.0f} {height:.0f}"
    return f'<svg viewBox="{box}" width="{width:.0f}" role="img">{"".join(marks)}</svg>'
