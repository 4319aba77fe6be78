"""Views of shared weights: elastic kernels, sliced layers, fast depthwise convolution, channel
sorting.

Nothing here keeps state.  Every function takes full-size weights and returns (or computes with) the
part that a subnet uses, so that a gradient reaches the shared tensor.  Source: Once-for-All,
arXiv:1908.09791; thesis 3.2.2.
"""

from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F

from nat_lib.blocks import se_hidden


def crop(weight, size):
    """Central size x size taps of (C, 1, K, K) kernels: a view."""
    lo = (weight.shape[-1] - size) // 2
    return weight[..., lo : lo + size, lo : lo + size]


def kernel_view(weight, size, matrices):
    """The kernel of a subnet: (C, I, 7, 7) -> (C, I, size, size), I = 1 where it is depthwise.

    matrices : {"5": (25, 25), "3": (9, 9)}, applied one after the other from 7 down to `size`:
               each step crops the centre and multiplies the flattened taps.  Identity
               matrices make it the plain centre crop.
    Source   : Once-for-All, arXiv:1908.09791 (kernel transformation); thesis 3.2.2.
    """
    for step in sorted(map(int, matrices), reverse=True):
        if weight.shape[-1] > size:
            taps = crop(weight, step).flatten(2)  # (C, I, step^2)
            weight = F.linear(taps, matrices[str(step)]).unflatten(2, (step, step))
    return weight


def depthwise(x, weight, stride):
    """Depthwise convolution with "same" padding: x (B, C, H, W), weight (C, 1, K, K) -> (B, C,
    ceil(H/s), ceil(W/s)).

    Taps that no output pixel can reach (a 7x7 kernel on a 2x2 map only uses its central 3x3) are
    cropped first; the result is identical.  On a CPU the weight gradient of all but plain 3x3
    kernels takes a detour (`_Depthwise`).
    """
    weight = crop(weight, min(weight.shape[-1], 2 * max(x.shape[-2:]) - 1))
    if weight.shape[-1] == 1:  # one pixel
        return x * weight.view(-1, 1, 1)
    if (
        (weight.shape[-1] > 3 or min(x.shape[-2:]) < 3)
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and torch.is_grad_enabled()
        and weight.requires_grad
    ):
        return _Depthwise.apply(x, weight, stride)
    return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=len(weight))


def end_padded(convolve, x):
    """A convolution of stride 2 that pads even sides at the end only, from one that pads both ends.

    One more row in front moves all windows back by one; the first then lies outside of the image.
    Source: TensorFlow's padding "SAME".
    """
    rows, columns = (1 - side % 2 for side in x.shape[-2:])
    return convolve(F.pad(x, (columns, 0, rows, 0)))[..., rows:, columns:]


class _Depthwise(torch.autograd.Function):
    """conv2d(groups=C) with another weight gradient: unless the kernel is at most three columns
    wide, the library's own multiplies dense blocks of 16 channels and throws 15 of every 16
    products away."""

    @staticmethod
    def forward(ctx, x, weight, stride):
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        K = weight.shape[-1]
        grad_x = _conv_backward(
            grad, x, weight, ctx.stride, (K // 2, K // 2), (True, False, False)
        )[0]
        by = (
            _taps_by_pairs if max(x.shape[-2:]) <= K + 1 else _taps_by_columns
        )  # pairs: the kernel spans the map
        return grad_x, by(x, grad, K, ctx.stride), None


def _conv_backward(grad, x, weight, stride, padding, wanted):
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, (stride, stride), padding, (1, 1), False, (0, 0), len(weight), wanted
    )


def _taps_by_pairs(x, grad, kernel, stride):
    """Weight gradient (C, 1, K, K) on a small map: every input pixel times every output pixel, one
    product per channel.

    The gradient of tap (a, b) is the sum of the pairs that lie a rows and b columns apart.
    """
    (B, C, H, W), (Ho, Wo) = x.shape, grad.shape[-2:]
    left, right = (
        t.permute(0, 2, 3, 1).reshape(-1, C).t().contiguous().view(C, B, -1) for t in (x, grad)
    )
    pairs = torch.bmm(left.mT, right).view(C, -1)  # (C, H*W*Ho*Wo)
    return (pairs @ _collect(H, W, Ho, Wo, kernel, stride)).view(C, 1, kernel, kernel)


@lru_cache(maxsize=128)
def _collect(H, W, Ho, Wo, kernel, stride):
    """(H*W*Ho*Wo, K*K) 0/1 matrix: 1 where tap (a, b) joins input pixel (i, j) to output pixel (k,
    l)."""

    def joins(size, out):  # (size, out, K)
        i, o, tap = torch.meshgrid(
            torch.arange(size), torch.arange(out), torch.arange(kernel), indexing="ij"
        )
        return (i - o * stride + kernel // 2 == tap).float()

    return torch.einsum("ika,jlb->ijklab", joins(H, Ho), joins(W, Wo)).reshape(-1, kernel * kernel)


def _taps_by_columns(x, grad, kernel, stride):
    """Weight gradient (C, 1, K, K) on a large map: by the library, three columns of taps at a time.

    Both maps are copied into frames of zeros.  Rows follow each other in memory, so an input
    shifted by e columns is the same frame read e pixels later: what leaves a row on one side is the
    zero border of the next.
    """
    (B, C, H, _), (Ho, Wo), p = x.shape, grad.shape[-2:], kernel // 2
    wide = Wo + max(2, p // stride)
    rows = (
        p - 2 if stride > 1 else 0
    )  # a strided kernel is fast up to two padded rows: the frame holds the others
    shape, size = (B, H + 2 * rows, wide * stride, C), B * (H + 2 * rows) * wide * stride * C
    frame = _framed(x, *shape[1:3], rows, stride - 1 + p, slack=(kernel - 3) * C)
    outer = _framed(grad, Ho, wide, 0, 1).view(B, Ho, wide, C).permute(0, 3, 1, 2)
    taps, three = x.new_empty(C, 1, kernel, kernel), x.new_empty(C, 1, kernel, 3)
    for e in range(0, kernel - 1, 2):  # neighbours share a column of taps
        shifted = frame[e * C : e * C + size].view(shape).permute(0, 3, 1, 2)
        taps[..., e : e + 3] = _conv_backward(
            outer, shifted, three, stride, (p - rows, 1), (False, True, False)
        )[1]
    return taps


def _framed(t, height, width, top, left, slack=0):
    """t (B, C, H, W) inside zeros, as one vector in the order (B, height, width, C), with `slack`
    zeros behind it."""
    (B, C, H, W), size = t.shape, len(t) * height * width * t.shape[1]
    flat = t.new_empty(size + slack)
    frame = flat[:size].view(B, height, width, C)
    frame[:, top : top + H, left : left + W] = t.permute(0, 2, 3, 1)
    for border in (
        frame[:, :top],
        frame[:, top + H :],
        frame[:, :, :left],
        frame[:, :, left + W :],
        flat[size:],
    ):
        border.zero_()
    return flat


def pointwise(x, weight, bias=None):
    """1x1 convolution, on small maps as a product: x (B, C, H, W), weight (D, C, 1, 1) -> (B, D, H,
    W).

    In channels-last the product reads x as it lies, and its two gradients cost less than a
    convolution's.
    """
    if max(x.shape[-2:]) > 3:
        return F.conv2d(x, weight, bias)
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def first(tensor, n):
    """The first n rows; the tensor itself if it has no more: the gradient of a slice is a full-size
    copy."""
    return tensor if len(tensor) == n else tensor[:n]


def leading(weight, n):
    """The first n input channels of a convolution's weight; the tensor itself if it has no more."""
    return weight if weight.shape[1] == n else weight[:, :n]


def batch_norm(bn, x):
    """Batch norm with the first x.shape[1] channels of `bn`; in training the slices of its running
    statistics move."""
    n = x.shape[1]
    return F.batch_norm(
        x,
        first(bn.running_mean, n),
        first(bn.running_var, n),
        first(bn.weight, n),
        first(bn.bias, n),
        bn.training,
        bn.momentum,
        bn.eps,
    )


def squeeze_excite(se, x):
    """Squeeze-and-excitation of x (B, C, H, W) with the first channels of `se`; the hidden width
    follows x."""
    n, hidden = x.shape[1], se_hidden(x.shape[1], se.divisor)
    mean = x.sum((2, 3)) / x[0, 0].numel()  # unlike mean's, the gradient of a sum is a view
    gate = se.act(
        F.linear(mean, se.reduce.weight[:hidden, :n].flatten(1), first(se.reduce.bias, hidden))
    )
    gate = se.gate(
        F.linear(gate, se.expand.weight[:n, :hidden].flatten(1), first(se.expand.bias, n))
    )
    return x * gate[:, :, None, None]


@torch.no_grad()
def sort_channels(block, widths):
    """Order the middle channels of an inverted residual block by importance, in place; the block's
    function stays.

    Importance of a channel: L1 norm of the projection weights that read it.  `widths` are the
                             protected middle widths,
    ascending: channels are sorted inside each group [0, w0), [w0, w1), ... and groups keep their
               order, so the set of
    channels below every protected width stays.  The hidden units of the squeeze-and-excitation are
    sorted likewise.
    Source: Once-for-All, arXiv:1908.09791; thesis 3.2.2.
    """
    importance = block.project.weight.abs().sum((0, 2, 3))
    edges = [0, *widths, len(importance)]
    order = torch.cat(
        [
            lo + torch.argsort(importance[lo:hi], descending=True, stable=True)
            for lo, hi in pairwise(edges)
        ]
    )
    inner = [block.expand.weight, *_statistics(block.bn1)]
    if hasattr(block, "depthwise"):
        inner += [block.depthwise.weight, *_statistics(block.bn2)]
    for tensor in inner:
        tensor.copy_(tensor[order])
    block.project.weight.copy_(block.project.weight[:, order])
    if block.se is not None:
        reduce, expand = block.se.reduce, block.se.expand
        expand.weight.copy_(expand.weight[order])
        expand.bias.copy_(expand.bias[order])
        reduce.weight.copy_(reduce.weight[:, order])
        hidden = torch.argsort(expand.weight.abs().sum((0, 2, 3)), descending=True, stable=True)
        expand.weight.copy_(expand.weight[:, hidden])
        reduce.weight.copy_(reduce.weight[hidden])
        reduce.bias.copy_(reduce.bias[hidden])


def _statistics(bn):
    return bn.weight, bn.bias, bn.running_mean, bn.running_var
