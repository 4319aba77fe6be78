"""The one table of data sets: names, places, splits, preparation. It imports in milliseconds.

Source: thesis Tables 3.2, 4.1, 6.1 and section 5.2.2; Once-for-All, arXiv:1908.09791.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

# the extra augmentations and the deterministic preparations that `Transform` may name
EXTRAS = (None, "AA", "RA", "affine")
MODES = ("CC", "square_bilinear", "square_bicubic")


class Transform(NamedTuple):
    """Preparation of the images of a data set.

    scale    : smallest share of the area that a random resized crop keeps; None: the whole image,
               nothing random
    ratio    : aspect of the crop, smallest and largest
    flip     : mirror every second image
    extra    : "AA" (AutoAugment, CIFAR-10 policy), "RA" (RandAugment, rand-m9-mstd0.5), "affine",
               or None
    evaluate : "CC" (shorter side to ceil(R / 0.875), bilinear, central R x R), "square_bilinear",
               "square_bicubic"
    """

    scale: float | None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    extra: str | None = None
    evaluate: str = "CC"


class Archive(NamedTuple):
    """An archive that torchvision does not know."""

    url: str
    md5: str


class Dataset(NamedTuple):
    """What a data set is. Shares are counts, or fractions of the images at hand, rounded down.

    reader      : a function of `data.readers` by name, or any function (root, download) -> `Raw`
    transform   : `Transform`
    calibration : (images, batch size) for batch-norm recalibration
    home        : the folder under the root that holds it; None: the root itself
    embedded    : comes with the kit's packages and needs no root
    valid, test : validation images taken from the training part, test images taken before that;
                  None: there is an official part
    mean, std   : per channel, 0..1; None: computed on the training split
    official    : full (train, val, test) sizes in the literature
    thesis      : its name in the thesis
    archive     : where torchvision does not fetch it
    hint        : what to put where, if nobody can fetch it
    """

    reader: str | Callable[..., Any]
    transform: Transform
    calibration: tuple[int, int]
    home: str | None = None
    embedded: bool = False
    valid: float | int | None = None
    test: float | int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    official: tuple[int, int, int] | None = None
    thesis: str | None = None
    archive: Archive | None = None
    hint: str = ""


PLAIN = Transform(None, flip=False, evaluate="square_bicubic")  # AEP: nothing random at all
DIGITS = Transform(0.85, flip=False, evaluate="square_bilinear")
FOLDER = Transform(0.85)
CIFAR = Transform(1.0, (1.0, 1.0), extra="AA", evaluate="square_bicubic")
CIFAR_MEAN = (0.49139968, 0.48215827, 0.44653124)
CIFAR_STD = (0.24703233, 0.24348505, 0.26158768)

DATASETS = {
    "digits": Dataset(
        "read_digits", DIGITS, calibration=(500, 100), embedded=True, valid=0.15, test=0.2
    ),
    "digits_turned": Dataset(
        "read_digits_turned", DIGITS, calibration=(500, 100), embedded=True, valid=0.15, test=0.2
    ),
    "folder": Dataset("read_folder", FOLDER, calibration=(1000, 100), valid=0.15, test=0.2),
    "tiny_imagenet": Dataset(
        "read_tiny_imagenet",
        FOLDER,
        calibration=(1000, 100),
        home="tiny-imagenet-200",
        valid=0.15,
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
        official=(85000, 15000, 10000),
        thesis="Tiny ImageNet",
        archive=Archive(
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
        ),
    ),
    "cinic10": Dataset(
        "read_cinic10",
        Transform(1.0, evaluate="square_bicubic"),
        calibration=(4500, 100),
        home="CINIC-10",
        mean=(0.47889522, 0.47227842, 0.43047404),
        std=(0.24205776, 0.23828046, 0.25874835),
        official=(90000, 90000, 90000),
        thesis="CINIC-10",
        archive=Archive(
            "https://datashare.ed.ac.uk/bitstream/handle/10283/3192/CINIC-10.tar.gz",
            "6ee4d0c996905fe93221de577967a372",
        ),
    ),
    "cifar10": Dataset(
        "read_cifar10",
        CIFAR,
        calibration=(960, 100),
        home="cifar-10-batches-py",
        valid=0.1,
        mean=CIFAR_MEAN,
        std=CIFAR_STD,
        official=(45000, 5000, 10000),
        thesis="CIFAR-10",
    ),
    "cifar100": Dataset(
        "read_cifar100",
        CIFAR,
        calibration=(960, 100),
        home="cifar-100-python",
        valid=0.1,
        mean=CIFAR_MEAN,
        std=CIFAR_STD,
        official=(45000, 5000, 10000),
        thesis="CIFAR-100",
    ),
    "stl10": Dataset(
        "read_stl10",
        Transform(0.75),
        calibration=(100, 100),
        home="stl10_binary",
        valid=0.15,
        mean=(0.44671097, 0.4398105, 0.4066468),
        std=(0.2603405, 0.25657743, 0.27126738),
        official=(4250, 750, 8000),
        thesis="STL-10",
    ),
    "food101": Dataset(
        "read_food101",
        Transform(1.0, extra="AA", evaluate="square_bilinear"),
        calibration=(1000, 100),
        home="food-101",
        valid=0.15,
        mean=(0.5577418, 0.4423735, 0.3271720),
        std=(0.2591201, 0.2631173, 0.2658912),
        official=(64388, 11362, 25250),
        thesis="Food-101",
    ),
    "cars": Dataset(
        "read_cars",
        Transform(0.25, extra="RA", evaluate="square_bicubic"),
        calibration=(250, 100),
        home="stanford_cars",
        valid=0.15,
        mean=(0.4105215, 0.3857436, 0.3959629),
        std=(0.2861146, 0.2801378, 0.2852009),
        official=(6923, 1221, 8041),
        thesis="Stanford Cars",
        hint="put cars_train/, cars_test/, devkit/ (cars_meta.mat, cars_train_annos.mat) and "
        "cars_test_annos_withlabels.mat into stanford_cars/ under the root, from a copy of the "
        "original archives",
    ),
    "aircraft": Dataset(
        "read_aircraft",
        Transform(0.35, extra="RA"),
        calibration=(200, 100),
        home="fgvc-aircraft-2013b",
        mean=(0.4893359, 0.5183537, 0.5387914),
        std=(0.2238888, 0.2164164, 0.2461561),
        official=(3334, 3333, 3333),
        thesis="FGVC Aircraft",
    ),
    "dtd": Dataset(
        "read_dtd",
        Transform(0.2, extra="RA", evaluate="square_bicubic"),
        calibration=(100, 100),
        home="dtd",
        mean=(0.5329876, 0.4742608, 0.4262728),
        std=(0.2654976, 0.2547355, 0.2631728),
        official=(1880, 1880, 1880),
        thesis="DTD",
    ),
    "pets": Dataset(
        "read_pets",
        Transform(1.0, extra="RA"),
        calibration=(125, 100),
        home="oxford-iiit-pet",
        valid=0.15,
        mean=(0.4828895, 0.4448395, 0.3956656),
        std=(0.2592566, 0.2532760, 0.2598102),
        official=(3128, 552, 3669),
        thesis="Oxford-IIIT Pets",
    ),
    "flowers102": Dataset(
        "read_flowers102",
        Transform(1.0, flip=False, extra="affine", evaluate="square_bilinear"),
        calibration=(150, 100),
        home="flowers-102",
        valid=1000,
        mean=(0.5178362, 0.4106749, 0.3286417),
        std=(0.2972239, 0.2497605, 0.2853331),
        official=(1040, 1000, 6149),
        thesis="Oxford Flowers102",
    ),
    "eurosat": Dataset(
        "read_eurosat",
        PLAIN,
        calibration=(1000, 100),
        home="eurosat",
        valid=4000,
        test=5500,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        official=(17500, 4000, 5500),
        thesis="EuroSAT",
    ),
    "fashion_mnist": Dataset(
        "read_fashion_mnist",
        PLAIN,
        calibration=(1000, 100),
        home="FashionMNIST",
        valid=0.15,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        official=(51000, 9000, 10000),
        thesis="FashionMNIST",
    ),
    "gtsrb": Dataset(
        "read_gtsrb",
        PLAIN,
        calibration=(1000, 100),
        home="gtsrb",
        valid=6000,
        mean=(0.3337, 0.3064, 0.3171),
        std=(0.2672, 0.2564, 0.2629),
        official=(20640, 6000, 12630),  # of the 26 640 that torchvision fetches
        thesis="GTSRB",
    ),
}
BY_THESIS = {what.thesis: name for name, what in DATASETS.items() if what.thesis}
AEP: dict[str, dict[str, Any]] = {  # thesis Table 4.1 where it differs
    "tiny_imagenet": {"valid": 0.1, "official": (90000, 10000, 10000)},
}
