"""Draw docs/scenes.png: sixteen scenes, each above its truth.

python docs/make_scenes_picture.py
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mask2former.data.scenes import CATEGORIES, Scenes

COLUMNS, ROWS, GAP, WIDTH = 8, 2, 6, 152


def color_truth(scenes: Scenes, index: int) -> np.ndarray:
    """The segments in their categories' colours, a white line between them."""
    sample = scenes[index]
    height, width = sample.image.shape[:2]
    masks = sample.masks.render((0, 0, width, height), (height, width))
    truth = np.zeros_like(sample.image)
    for mask, label in zip(masks, sample.labels, strict=True):
        truth[mask] = CATEGORIES[label].color
    ids = masks.argmax(axis=0)
    truth[:, 1:][ids[:, 1:] != ids[:, :-1]] = 255
    truth[1:][ids[1:] != ids[:-1]] = 255
    return truth


def draw_sheet(scenes: Scenes) -> np.ndarray:
    """Image above truth, in a grid on white."""
    shown = (WIDTH, WIDTH)
    pairs = []
    for index in range(COLUMNS * ROWS):
        tiles = (scenes[index].image, color_truth(scenes, index))
        small = [cv2.resize(tile, shown, interpolation=cv2.INTER_AREA) for tile in tiles]
        pair = np.concatenate([small[0], np.full((2, WIDTH, 3), 255, np.uint8), small[1]])
        pairs.append(np.pad(pair, ((GAP, 0), (GAP, 0), (0, 0)), constant_values=255))
    rows = [np.concatenate(pairs[row * COLUMNS :][:COLUMNS], axis=1) for row in range(ROWS)]
    return np.pad(np.concatenate(rows), ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


if __name__ == "__main__":
    sheet = draw_sheet(Scenes(length=COLUMNS * ROWS, seed=9))
    # PNG cannot compress noise: without the last two bits, which nobody sees, it is far smaller.
    rounded = np.minimum((sheet.astype(int) + 2) // 4 * 4, 255).astype(np.uint8)
    Image.fromarray(rounded).save(Path(__file__).with_name("scenes.png"), optimize=True)
