"""Torchvision's ImageNet weights of the networks of `backbone_table`: where they are, and what a
file holds."""

import re
from pathlib import Path

import torch
import torchvision.models as tv

from nat_lib.backbone_table import row_of
from nat_lib.errors import Refusal
from nat_lib.files import sha256_of


def url_of(name):
    """Address of torchvision's IMAGENET1K_V1 weights of a network."""
    return tv.get_model_weights(row_of(name).builder).IMAGENET1K_V1.url


def file_of(name, folder=None, download=False):
    """Path of torchvision's IMAGENET1K_V1 weights of a network; a Refusal where they are not and
    may not be fetched.

    folder   : that holds the file under torchvision's name for it; None: torch's own cache
    download : fetch it into the folder if it is missing
    """
    return fetched(url_of(name), name, folder, download)


def fetched(url, name, folder=None, download=False):
    """Path of the file of an address in a folder, see `file_of`."""
    folder = Path(folder).expanduser() if folder else Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(url).name
    if not path.exists():
        if not download:
            raise Refusal(
                f"{path} is missing: put {url} there, name the folder that holds it (weights_dir), "
                f"or allow the download (download: true); {name} is never fine-tuned from random "
                "weights"
            )
        _fetch(url, path)
    wanted = path.stem.rpartition("-")[2]
    if not sha256_of(path).startswith(wanted):
        raise Refusal(
            f"{path} is damaged, its SHA-256 does not begin with {wanted}: delete it and fetch "
            f"{url} again"
        )
    return path


def _fetch(url, path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, path, progress=False)
    except OSError as error:
        raise Refusal(
            f"{url} cannot be fetched ({error}): fetch it elsewhere and put it into {path.parent}"
        ) from error


def weights(name, folder=None, download=False):
    """{torchvision's name: tensor} of the IMAGENET1K_V1 weights of a network, see `file_of`."""
    state = torch.load(file_of(name, folder, download), map_location="cpu", weights_only=True)
    # DenseNet's file is older than the names of its layers: norm.1 became norm1.
    return {
        re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)\.", r"\1\2.", key): v
        for key, v in state.items()
    }
