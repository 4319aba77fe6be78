"""Views of shared weights: elastic kernels, sliced layers, fast depthwise convolution, channel sorting.

Nothing here keeps state.  Every function takes full-size weights and returns (or computes with) the part that a subnet
uses, so that a gradient reaches the shared tensor.  Source: Once-for-All, arXiv:1908.09791; thesis 3.2.2.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F

from nat_lib.arch import se_hidden

GEMM_LIMIT = 8  # largest map side, in pixels, for which the depthwise weight gradient is computed by matrix products


def crop(weight, size):
    """Central size x size taps of (C, 1, K, K) kernels: a view."""
    lo = (weight.shape[-1] - size) // 2
    return weight[..., lo:lo + size, lo:lo + size]


def kernel_view(weight, size, matrices):
    """The depthwise kernel of a subnet: (C, 1, 7, 7) -> (C, 1, size, size).

    matrices : {"5": (25, 25), "3": (9, 9)}, applied one after the other from 7 down to `size`: each step crops the
               centre and multiplies the flattened taps.  Identity matrices make it the plain centre crop.
    Source   : Once-for-All, arXiv:1908.09791 (kernel transformation); thesis 3.2.2.
    """
    for step in ("5", "3"):
        if weight.shape[-1] > size:
            taps = crop(weight, int(step)).flatten(1)  # (C, size^2)
            weight = F.linear(taps, matrices[step]).view(len(weight), 1, int(step), int(step))
    return weight


def depthwise(x, weight, stride):
    """Depthwise convolution with "same" padding: x (B, C, H, W), weight (C, 1, K, K) -> (B, C, ceil(H/s), ceil(W/s)).

    Taps that no output pixel can reach (a 7x7 kernel on a 2x2 map only uses its central 3x3) are cropped first; the
    result is identical.  On small maps on a CPU the weight gradient is computed by matrix products (`_Depthwise`).
    """
    weight = crop(weight, min(weight.shape[-1], 2 * max(x.shape[-2:]) - 1))
    if max(x.shape[-2:]) <= GEMM_LIMIT and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 \
            and torch.is_grad_enabled() and weight.requires_grad:
        return _Depthwise.apply(x, weight, stride)
    return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=len(weight))


class _Depthwise(torch.autograd.Function):
    """conv2d(groups=C) whose weight gradient is one matrix product per channel: the library's own is several times slower.

    For each channel M = X^T G correlates every input pixel with every output pixel over the batch; the gradient of tap
    (a, b) is the sum of the entries of M that lie a rows and b columns apart, collected by two constant 0/1 matrices.
    """

    @staticmethod
    def forward(ctx, x, weight, stride):
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        (B, C, H, W), (Ho, Wo), K = x.shape, grad.shape[-2:], weight.shape[-1]
        stride, padding = [ctx.stride] * 2, [K // 2] * 2
        grad_x = torch.ops.aten.convolution_backward(grad, x, weight, None, stride, padding, [1, 1], False, [0, 0], C,
                                                     [True, False, False])[0]
        left = x.permute(1, 2, 3, 0).contiguous().view(C, H * W, B)
        right = grad.permute(1, 2, 3, 0).contiguous().view(C, Ho * Wo, B)
        pairs = torch.bmm(left, right.mT)
        rows, columns = _taps(H, Ho, K, ctx.stride), _taps(W, Wo, K, ctx.stride)  # (H*Ho, K), (W*Wo, K)
        pairs = pairs.view(C, H, W, Ho, Wo).permute(0, 2, 4, 1, 3).reshape(C, W * Wo, H * Ho)
        grad_weight = torch.matmul((pairs @ rows).mT, columns)  # (C, K, K)
        return grad_x, grad_weight.view_as(weight), None


@lru_cache(maxsize=256)
def _taps(size, out, kernel, stride):
    """(size * out, kernel) 0/1 matrix: entry ((i, o), t) is 1 where tap t joins input pixel i to output pixel o."""
    i, o = torch.meshgrid(torch.arange(size), torch.arange(out), indexing="ij")
    return F.one_hot((i - o * stride + kernel // 2).clamp(-1, kernel).flatten() + 1, kernel + 2)[:, 1:-1].float()


def batch_norm(bn, x):
    """Batch norm with the first x.shape[1] channels of `bn`; in training the slices of its running statistics move."""
    n = x.shape[1]
    return F.batch_norm(x, bn.running_mean[:n], bn.running_var[:n], bn.weight[:n], bn.bias[:n], bn.training, bn.momentum,
                        bn.eps)


def squeeze_excite(se, x):
    """Squeeze-and-excitation with the first channels of `se`; the hidden width follows the active width (x (B, C, H, W))."""
    n, hidden = x.shape[1], se_hidden(x.shape[1])
    gate = F.relu(F.conv2d(x.mean((2, 3), keepdim=True), se.reduce.weight[:hidden, :n], se.reduce.bias[:hidden]))
    return x * F.hardsigmoid(F.conv2d(gate, se.expand.weight[:n, :hidden], se.expand.bias[:n]))


@torch.no_grad()
def sort_channels(block, widths):
    """Order the middle channels of an inverted residual block by importance, in place; the block's function stays.

    Importance of a channel: L1 norm of the projection weights that read it.  `widths` are the protected middle widths,
    ascending: channels are sorted inside each group [0, w0), [w0, w1), ... and groups keep their order, so the set of
    channels below every protected width stays.  The hidden units of the squeeze-and-excitation are sorted likewise.
    Source: Once-for-All, arXiv:1908.09791; thesis 3.2.2.
    """
    importance = block.project.weight.abs().sum((0, 2, 3))
    edges = [0, *widths, len(importance)]
    order = torch.cat([lo + torch.argsort(importance[lo:hi], descending=True, stable=True)
                       for lo, hi in zip(edges, edges[1:], strict=False)])
    for tensor in (block.expand.weight, block.depthwise.weight, *_statistics(block.bn1), *_statistics(block.bn2)):
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
