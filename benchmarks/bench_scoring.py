"""Row 3, scoring one subnet against `ofa`'s way: BN statistics from 2000 images, top-1 on 2000
others, 64 pixels.

Both sides start from a supernet with the same weights and images in memory; extraction is included.
 The peer: extract, Both sides start from a supernet with the same weights and images in memory;
           extraction is included.  Peer: extract,
the answers of the largest subnet, so that top-1 is not chance; both must agree to one image.

    python benchmarks/bench_scoring.py [--rounds 3] [--threads 2] [--clock wall|cpu] [--json PATH]
"""

from types import SimpleNamespace

import numpy as np
import peer
import timing
import torch

from nat_lib.arch import Space
from nat_lib.evaluate import prepare, recalibrate, score
from nat_lib.supernet import Supernet, with_width

IMAGES, SUBNETS = 2000, 4


def pictures(n, seed):
    """Smooth random images (n, 3, 64, 64): coarse noise, enlarged, so that neighbouring pixels
    resemble each other."""
    coarse = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (peer.SIDE, peer.SIDE), mode="bicubic")


def main():
    chosen = timing.options(__doc__, rounds=3)
    space = Space("BASE")
    net = Supernet(space, 1.0, peer.CLASSES).eval()
    other = peer.supernet(net).eval()
    calibration, images = pictures(IMAGES, 1), pictures(IMAGES, 2)
    ours_calibration, ours_images = (
        t.contiguous(memory_format=torch.channels_last) for t in (calibration, images)
    )
    ours_calibration = list(ours_calibration.split(100))
    with torch.no_grad():
        largest = recalibrate(net.extract(with_width(space.largest, 1.0)), ours_calibration)
        labels = torch.cat([largest(x).argmax(1) for x in ours_images.split(100)])
    at_peer = (
        [(x, None) for x in calibration.split(100)],
        list(zip(images.split(256), labels.split(256), strict=True)),
    )
    batches = list(zip(ours_images.split(100), labels.split(100), strict=True))
    data = SimpleNamespace(calibration_batches=lambda resolution: ours_calibration)

    rows, top1 = [], []
    for i, arch in enumerate(peer.quadruple(other, 0)[:SUBNETS]):
        calls = {
            "ours": lambda a=arch: score(prepare(net, a, data, peer.SIDE), batches).top1,
            "ofa": lambda a=arch: peer.score(other, a, *at_peer)[1],
        }
        top1.append({name: call() for name, call in calls.items()})
        times = timing.interleave(calls, chosen.rounds, chosen.clock)
        rows.append(
            timing.compare(times, "ours", "ofa", f"3 subnet {i}", 0.50)
            | {"top1 ours": top1[-1]["ours"], "top1 ofa": top1[-1]["ofa"]}
        )
    worst = max(abs(t["ours"] - t["ofa"]) for t in top1) * IMAGES / 100
    timing.show(rows, chosen)
    print(
        f"median ratio {np.median([r['ratio'] for r in rows]):.3f}; "
        f"top-1 differs by at most {worst:.0f} of {IMAGES} images"
    )


if __name__ == "__main__":
    main()
