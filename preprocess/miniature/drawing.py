"""Draws the images of the miniature: ten kinds of objects, each with its own silhouette and pattern.

All else is independent of the kind: the colours of object and background, position, size and rotation,
clutter, lighting, noise, the image's size and the JPEG's quality. No kind depends on left and right, since
training flips images.
"""

import io
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]  # float32
Field = Callable[[Array, Array], Array]
Split = Literal["train", "val"]
TAU = np.float32(2 * np.pi)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

# From (u, v), about -1..1 across the object, v downwards, to the distance from its edge, negative inside.
SILHOUETTES: dict[str, Field] = {
    "disc": lambda u, v: np.hypot(u, v) - 0.85,
    "star": lambda u, v: np.hypot(u, v) * np.cos(np.arccos(np.cos(5 * np.arctan2(u, -v))) / 5 - 1.05) - 0.53,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - 0.75,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.64) - 0.3,
    "cross": lambda u, v: np.minimum(
        np.maximum(np.abs(u) - 0.34, np.abs(v) - 0.95), np.maximum(np.abs(u) - 0.95, np.abs(v) - 0.34)
    ),
    "crescent": lambda u, v: np.maximum(np.hypot(u, v) - 0.95, 0.65 - np.hypot(u - 0.55, v)),
    "triangle": lambda u, v: np.maximum(0.866 * np.abs(u) - 0.5 * v, v) - 0.6,
    "flower": lambda u, v: np.hypot(u, v) - 0.75 - 0.2 * np.cos(6 * np.arctan2(u, v)),
    "heart": lambda u, v: np.hypot(u, 1.1 * v + 0.7 * np.sqrt(np.abs(u)) - 0.2) - 0.85,
    "leaf": lambda u, v: np.hypot(np.abs(u) + 0.4, v) - 1.05,
}

# From (a, b), in periods of the pattern, to a wave; its sign chooses between two colours.
PATTERNS: dict[str, Field] = {
    "striped": lambda a, b: np.sin(TAU * a),
    "dotted": lambda a, b: np.cos(TAU * a) + np.cos(TAU * b) - 0.6,
    "ringed": lambda a, b: np.sin(TAU * np.hypot(a, b)),
    "rayed": lambda a, b: np.hypot(a, b) * np.sin(12 * np.arctan2(a, b)),
    "zigzag": lambda a, b: np.sin(TAU * (a + np.abs(b % 2 - 1))),
    "bricked": lambda a, b: 4 * np.minimum(b % 1, (a + np.floor(b)) % 2) - 0.8,
    "chequered": lambda a, b: 1.5 * np.sin(TAU / 1.4 * a) * np.sin(TAU / 1.4 * b),
    "blotched": lambda a, b: np.sin(4 * a + 2 * np.sin(3 * b)) + np.sin(4 * b + 2 * np.sin(2.6 * a + 1)),
    "latticed": lambda a, b: 1.5 * np.maximum(np.cos(TAU * a), np.cos(TAU * b)) - 1.1,
    "scaled": lambda a, b: np.cos(TAU * np.hypot((a + np.floor(b)) % 2 - 1, b % 1)),
}


class Kind(NamedTuple):
    """A class of the miniature."""

    wnid: str
    pattern: str
    silhouette: str


KINDS = (  # in the order of their wnids: a kind's index is its label
    Kind("n90104582", "striped", "disc"),
    Kind("n90217739", "dotted", "star"),
    Kind("n91560213", "ringed", "square"),
    Kind("n91873306", "rayed", "ring"),
    Kind("n92334871", "zigzag", "cross"),
    Kind("n93019924", "bricked", "crescent"),
    Kind("n94450617", "chequered", "triangle"),
    Kind("n95728140", "blotched", "flower"),
    Kind("n97106358", "latticed", "heart"),
    Kind("n98642095", "scaled", "leaf"),
)


def encode(seed: int, split: Split, number: int, label: int) -> bytes:
    """The bytes of one image file; they depend on the arguments alone.

    A JPEG in colour, except: each hundredth is greyscale, and one training image each is CMYK and a PNG.
    """
    rng = np.random.default_rng((seed, ("train", "val").index(split), number))
    image = Image.fromarray(draw(rng, KINDS[label]))
    if number % 100 == 3:
        image = image.convert("L")
    elif (split, number) == ("train", 7):
        image = image.convert("CMYK")
    form = "PNG" if (split, number) == ("train", 11) else "JPEG"
    file = io.BytesIO()
    image.save(file, form, quality=int(rng.integers(65, 97)))
    return file.getvalue()


def draw(rng: np.random.Generator, kind: Kind) -> npt.NDArray[np.uint8]:
    """An image with an object of this kind, uint8 [height, width, 3]."""
    background, colours = palette(rng)
    canvas = Canvas(rng, background)
    canvas.clutter(int(rng.integers(4, 14)))
    size = rng.uniform(0.65, 0.95)
    place = rng.uniform(size - 1, 1 - size, 2)
    canvas.add(kind.silhouette, kind.pattern, colours, place, size, rng.uniform(-0.3, 0.3))
    canvas.clutter(int(rng.integers(0, 4)))
    return canvas.render()


def random_size(rng: np.random.Generator) -> tuple[int, int]:
    """Width and height: the shorter side 180 to 500 pixels; landscape or portrait, 2 % panoramas."""
    shorter = rng.triangular(180, 240, 500)
    panorama = rng.random() < 0.02
    ratio = rng.uniform(2, 3) if panorama else rng.choice((1, 5 / 4, 4 / 3, 3 / 2, rng.uniform(1, 1.7)))
    sides = round(shorter * ratio), round(shorter)
    return sides if rng.random() < 0.6 else sides[::-1]


def palette(rng: np.random.Generator) -> tuple[Array, Array]:
    """Two colours, float32 [2, 3], 0..1, for the background and two for the object.

    The object's colours differ from each other in lightness, and from those of the background.
    """
    while True:
        colours = rng.random((4, 3), np.float32)
        light = colours @ LUMA
        colours = light[:, None] + rng.uniform(0.3, 1, (4, 1)).astype(np.float32) * (colours - light[:, None])
        colours[1] = 0.4 * colours[0] + 0.6 * colours[1]
        apart = np.linalg.norm(colours[:2, None] - colours[None, 2:], axis=2)
        if abs(light[2] - light[3]) > 0.3 and apart.min() > 0.3:
            return colours[:2], colours[2:]


class Canvas:
    """float32 planes [3, height, width], 0..1, with coordinates in which the central square is -1..1."""

    def __init__(self, rng: np.random.Generator, colours: Array) -> None:
        """Fill the background: a gradient between two colours, with smooth noise of two scales."""
        width, height = self.size = random_size(rng)
        self.rng, self.pixel = rng, np.float32(2 / min(self.size))
        self.x = (np.arange(width, dtype=np.float32) - (width - 1) / 2) * self.pixel
        self.y = (np.arange(height, dtype=np.float32)[:, None] - (height - 1) / 2) * self.pixel
        share = 0.5 + rng.uniform(0, 0.5) * self.slope()
        for cells in rng.integers((3, 12), (8, 60)):
            noise = Image.fromarray(rng.random((cells, cells), np.float32) - 0.5)
            share += rng.uniform(0, 0.8) * np.asarray(noise.resize(self.size, Image.Resampling.BICUBIC))
        self.planes = mix(colours, np.clip(share, 0, 1))

    def slope(self) -> Array:
        """A ramp in a random direction, with its maximum at 1."""
        slope, _ = rotate(self.x, self.y, self.rng.uniform(0, TAU))
        return slope / slope.max()

    def clutter(self, count: int) -> None:
        """Add small objects of any silhouette, pattern and colour, anywhere."""
        rng, corner = self.rng, np.array([self.x[-1], self.y[-1, 0]])
        for _ in range(count):
            silhouette, pattern = rng.choice(list(SILHOUETTES)), rng.choice(list(PATTERNS))
            colours, place = rng.random((2, 3), np.float32), corner * rng.uniform(-1, 1, 2)
            self.add(silhouette, pattern, colours, place, rng.uniform(0.05, 0.16), rng.uniform(0, TAU))

    def add(
        self, silhouette: str, pattern: str, colours: Array, place: Array, size: float, angle: float
    ) -> None:
        """Add an object with a soft shadow; its pattern is rotated a little against it."""
        edge, period, turn = self.pixel / size, self.rng.uniform(0.26, 0.4), self.rng.uniform(-0.2, 0.2)
        phase = self.rng.uniform(-0.5, 0.5, 2).tolist()
        for shift, soft in ((0.07, 0.25), (0, edge)):
            x, y = (place + shift * size).tolist()
            columns = slice(*np.searchsorted(self.x, (x - 1.3 * size, x + 1.3 * size)))
            rows = slice(*np.searchsorted(self.y[:, 0], (y - 1.3 * size, y + 1.3 * size)))
            window = self.planes[:, rows, columns]
            u, v = rotate((self.x[columns] - x) / size, (self.y[rows] - y) / size, angle)
            cover = np.clip(0.5 - SILHOUETTES[silhouette](u, v) / soft, 0, 1)
            if shift:
                window *= 1 - 0.5 * cover
            else:
                a, b = rotate(u / period, v / period, turn)
                wave = PATTERNS[pattern](a + phase[0], b + phase[1])
                window += cover * (mix(colours, np.clip(0.5 + wave * (period / edge / 5), 0, 1)) - window)

    def render(self) -> npt.NDArray[np.uint8]:
        """Apply contrast, lighting, tint and noise; return uint8 [height, width, 3]."""
        rng = self.rng
        light = rng.uniform(0.75, 1.2) * (1 + rng.uniform(0, 0.35) * self.slope())
        tint = rng.uniform(0.88, 1.12, (3, 1, 1)).astype(np.float32)
        noise = rng.uniform(0, 0.03) * rng.standard_normal(light.shape, np.float32)
        lit = (0.5 + rng.uniform(0.7, 1.1) * (self.planes - 0.5)) * light * tint + noise
        return np.ascontiguousarray((255 * np.clip(lit, 0, 1) + 0.5).astype(np.uint8).transpose(1, 2, 0))


def rotate(u: Array, v: Array, angle: float) -> tuple[Array, Array]:
    """Rotate the coordinates by an angle in radians."""
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return u * cos + v * sin, v * cos - u * sin


def mix(colours: Array, share: Array) -> Array:
    """Planes [3, height, width]: the first colour where `share` is 0, the second where it is 1."""
    return colours[0][:, None, None] + share * (colours[1] - colours[0])[:, None, None]
