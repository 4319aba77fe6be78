"""A size to train at, chosen from the images at hand."""

from pathlib import Path
from statistics import median

from nat_lib.data.folders import walk
from nat_lib.errors import Refusal

ASKED = 200  # images whose header is read
SMALLEST, LARGEST = 28, 96  # pixels: below, nothing is left to see; above, two cores take hours
SHARES = (2 / 3, 5 / 6, 1)  # of the largest size: the resolutions of the space


def training_sides(root: str | Path) -> list[int]:
    """Ascending sizes in pixels, multiples of 4: the largest is the shorter side of the typical
    image, within SMALLEST and LARGEST."""
    side = typical_side(Path(root))
    largest = min(LARGEST, max(SMALLEST, int(side) // 4 * 4))
    return [round(largest * share / 4) * 4 for share in SHARES]


def typical_side(root: Path) -> float:
    """Median shorter side in pixels of at most ASKED images, spread over all files of a folder."""
    from PIL import Image, UnidentifiedImageError

    files = [entry.path for entry in walk(root)] if root.is_dir() else []
    sides = []
    for path in files[:: max(1, len(files) // ASKED)]:
        try:
            with Image.open(path) as image:
                sides.append(min(image.size))
        except (UnidentifiedImageError, OSError, ValueError):
            continue
    if not sides:
        raise Refusal(
            f"{root} holds no images whose size could be asked for: name the folder with "
            "--data-dir, or give train_resolutions and eval_resolutions as numbers"
        )
    return median(sides)
