"""Weights of the exits in the joint loss and in the vote; how the former may change meanwhile.

A new way is a function and a row of MODES or WEIGHT_LAWS.  No torch.
Source: AEP, arXiv:2301.12168; thesis Table 4.2 and 5.1.4.
"""

from nat_lib.errors import Refusal

# OFAv2 and NATv2 write them out for five exits; the formula gives i/15
DESC5 = (0.34, 0.27, 0.20, 0.13, 0.06)


def rising(n: int) -> tuple[float, ...]:
    """n weights of sum 1 that grow linearly."""
    total = n * (n + 1) // 2
    return tuple(i / total for i in range(1, n + 1))


def falling(n: int) -> tuple[float, ...]:
    return rising(n)[::-1]


def flat(n: int) -> tuple[float, ...]:
    return (1 / n,) * n


# mode: laws of the loss weights and of the vote weights, number of exits -> weights of sum 1
MODES = {
    "DESC": (falling, falling),
    "ASC": (rising, rising),
    "MIX": (falling, rising),
    "UNIF": (flat, flat),
}


def exit_weights(mode, n_exits):
    """Loss and vote weights of the exits, shallow to deep; each sums to 1.

    mode    : a key of MODES
    returns : (loss, vote), two tuples of n_exits numbers
    Source  : thesis Table 4.2; AEP, arXiv:2301.12168.  MIX trains like DESC and votes like ASC.
    """
    if mode not in MODES or n_exits < 1:
        raise Refusal(
            f"exit weights {mode!r} for {n_exits} exits: use one of {', '.join(MODES)} and at "
            "least one exit"
        )
    loss, vote = MODES[mode]
    return loss(n_exits), vote(n_exits)


DEFAULT = "DESC"  # of supernets


def votes(mode, n_exits):
    """Vote weights of all exits of a supernet, shallow to deep: those of `supernet_weights` where
    it has the mode, else of `exit_weights`."""
    if mode in ("DESC", "ASC"):
        return supernet_weights(mode, n_exits)
    return exit_weights(mode, n_exits)[1]


def supernet_weights(mode, n_exits):
    """Exit weights of OFAv2 and NATv2, for loss, ensemble output and ENS-KD alike: DESC5 or its
    reverse for five exits.

    mode    : "DESC" (thesis 5.1.4) | "ASC" (the order in the published training code)
    returns : tuple of n_exits numbers, shallow to deep; other numbers of exits follow
              `exit_weights`
    """
    if mode not in ("DESC", "ASC"):
        raise Refusal(f"exit_weights {mode!r}: use DESC or ASC")
    if n_exits != len(DESC5):
        return exit_weights(mode, n_exits)[0]
    return DESC5 if mode == "DESC" else DESC5[::-1]


# --------------------------------------------------------------------------- while a network trains


def steady(weights, done, losses):
    """Those of the mode."""
    return weights


def reversing(weights, done, losses):
    """From those of the mode, in a line, to their reverse: from DESC to ASC.  Source: thesis
    chapter 7."""
    return [a + done * (b - a) for a, b in zip(weights, weights[::-1], strict=True)]


def lagging(weights, done, losses):
    """Those of the mode, times the loss of the exit beside the mean: exits that lag are trained
    more.  Source of the idea: DynExit, Wang et al., ICTAI 2019."""
    if losses is None:
        return weights
    raw = [w * loss for w, loss in zip(weights, losses, strict=True)]
    return [sum(weights) * r / sum(raw) for r in raw]


# (loss weights of the mode, share of the epochs that is over, mean losses of the exits in the epoch
# before or None) -> loss weights of the epoch, of the same sum
WEIGHT_LAWS = {"steady": steady, "reversing": reversing, "lagging": lagging}
