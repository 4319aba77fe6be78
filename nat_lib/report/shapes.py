"""A subnet as a list of shapes: boxes, texts, frames and arrows with their places and colours.

The list is made once, here. `schematics.canvas.paint` draws it with matplotlib, `svg` writes it as
text for a browser: a hundred times quicker, so that the drawing follows a pointer. Coordinates are
units of half an inch (`SCALE` pixels), x to the right, y upwards from the lower left corner.
"""

import html
from typing import NamedTuple

from nat_lib.blocks import BRANCHES, after
from nat_lib.plans import THESIS

KERNEL_COLOUR = {3: "#f0e0a8", 5: "#a8d0c0", 7: "#6f9fc8"}
HEIGHT = {3: 1.1, 4: 1.6, 6: 2.4}  # of an expansion ratio; others are drawn like the smallest
LOWEST = min(HEIGHT.values())
BOX, PALE, LINE, EXIT, STEM = "#e8edf3", "#fafafa", "#444444", "#c5e3b8", "#f2ead0"
PALE_LINE, PALE_TEXT = "#c8c8c8", "#b0b0b0"
SCALE = 42  # pixels per unit in an SVG
STAGE = 4.4  # from one stage to the next


class Box(NamedTuple):
    """A box centred on (x, y) with a few lines of text. Without a colour: there, but not used."""

    x: float
    y: float
    wide: float
    high: float
    text: str = ""
    colour: str | None = BOX
    size: float = 7.5


class Frame(NamedTuple):
    """An empty rectangle with its lower left corner at (x, y)."""

    x: float
    y: float
    wide: float
    high: float
    used: bool


class Arrow(NamedTuple):
    """A straight arrow from (x, y) to (to_x, to_y)."""

    x: float
    y: float
    to_x: float
    to_y: float
    used: bool


class Text(NamedTuple):
    """A line of text that is centred on x, or begins there."""

    x: float
    y: float
    text: str
    centred: bool = True
    used: bool = True
    size: float = 7.5


def title(arch, space, params, macs):
    """What stands above a drawing; params and macs in millions."""
    return (
        f"{space.thesis_name}, {arch.resolution} pixels, width {arch.width}: "
        f"{params:.3f} M parameters, {macs:.2f} M MACs"
    )


def subnet(arch, space):
    """(width, height, shapes) of a subnet, stage by stage.

    Kernels are colours, expansions are heights; skipped blocks and exits that are not taken are
    pale. A parallel level shows its branches side by side. Below each stage: channels and
    side of its output.
    """
    layout = space.layout(arch.width)
    shapes = [Box(0.9, 2.6, 0.9, 1.4, f"stem\n{layout.head.out}")]
    side = layout.head.side(arch.resolution)
    for s, stage in enumerate(layout.stages):
        left, used = 1.7 + STAGE * s, s < arch.exit
        side = after(stage.stride, side)
        shapes.append(Frame(left, 1.1, 4.1, 3.2, used))
        shapes.append(Arrow(left - 0.35, 2.6, left + 0.02, 2.6, used))
        for b in range(space.slots):
            works = used and b < arch.depth[s]
            shapes += slot(left + 0.55 + b, 2.6, arch, s * space.slots + b, space, works)
        output = f"{stage.c_out} x {side}²" if used else "not computed"
        shapes.append(Text(left + 2.05, 0.8, f"S{s + 1}: {output}", used=used))
        if stage.tail:
            taken = s + 1 in arch.answering
            shapes.append(Arrow(left + 3.9, 4.3, left + 3.9, 4.72, taken))
            text = f"exit {s + 1}: {', '.join(map(str, stage.tail.widths))}"
            shapes.append(Box(left + 3.05, 5.0, 2.1, 0.5, text, EXIT if taken else None, 6.5))
    shapes += legend(1.9, branches(space.plan) if space.parallel else kernels())
    return 2.2 + STAGE * space.n_stages, 5.6, shapes


def slot(x, y, arch, i, space, works):
    """Place i of a network at (x, y): a block, or the branches of a level side by side."""
    text = f"k{arch.kernel[i]}\ne{arch.expand[i]}"
    # canonical archs hold 0 where a number has no effect
    high = HEIGHT.get(arch.expand[i], LOWEST)
    if not space.parallel:
        colour = KERNEL_COLOUR.get(arch.kernel[i], BOX)
        if works:
            return [Box(x, y, 0.8, high, text, colour)]
        return [Box(x, y, 0.8, LOWEST, colour=None)]
    boxes = []
    others = len(space.branches) - 1  # the first branch is wide, the others share the rest
    for j, branch in enumerate(space.branches.values()):
        at, wide = -0.22, 0.4
        if j:
            at, wide = 0.1 + 0.22 * (j - 1) / max(others - 1, 1), 0.34 / others
        active = works and bool(arch.level[i] & branch.bit)
        if active and branch.elastic:
            boxes.append(Box(x + at, y, wide, high, text, branch.colour, 6))
        else:
            boxes.append(Box(x + at, y, wide, 0.9, colour=branch.colour if active else None))
    return boxes


def strip(x, y, arch, space):
    """A subnet as small bars, 6.4 wide from x: kernel by colour, expansion by height."""
    boxes = []
    for s in range(space.n_stages):
        for b in range(space.slots):
            i, works = s * space.slots + b, s < arch.exit and b < arch.depth[s]
            high = HEIGHT.get(arch.expand[i], LOWEST) if works else LOWEST
            colour = KERNEL_COLOUR.get(arch.kernel[i], BOX) if works else None
            at = x + 0.15 + 1.3 * s + 0.28 * b
            boxes.append(Box(at, y, 0.22, 0.4 * high, colour=colour))
    return boxes


def branches(plan=THESIS):
    """[(text, colour)] of the branches of a parallel level."""
    return [(BRANCHES[name].label, BRANCHES[name].colour) for name in plan.branches]


def kernels():
    """[(text, colour)] of the kernels."""
    return [(f"kernel {k}", colour) for k, colour in KERNEL_COLOUR.items()]


def legend(x, entries):
    """The lowest line of a drawing of subnets, from x: what colours and heights mean."""
    shapes = []
    for i, (text, colour) in enumerate(entries):
        shapes.append(Box(x + 3.2 * i, 0.25, 0.3, 0.25, colour=colour))
        shapes.append(Text(x + 0.3 + 3.2 * i, 0.25, text, centred=False, size=7))
    said = "height: expansion 3, 4, 6; dotted: skipped"
    return [*shapes, Text(x + 9.9, 0.25, said, centred=False, size=7)]


# ------------------------------------------------------------------------------------ as text (SVG)


def svg(width, height, shapes, label):
    """The shapes as an inline SVG element; `label` is read aloud. All text is escaped."""
    wide, high = round(width * SCALE), round(height * SCALE)
    body = "".join(_SVG[type(shape)](shape, height) for shape in shapes)
    return (
        f"<svg class='nat-subnet' role='img' aria-label='{html.escape(label)}' "
        f"viewBox='0 0 {wide} {high}' xmlns='http://www.w3.org/2000/svg' "
        f"style='width:100%; max-width:{wide}px' font-family='sans-serif'>{body}</svg>"
    )


def _rect(x, y, wide, high, height, style):
    """A rectangle whose lower left corner is (x, y), with SVG's y downwards."""
    left, top = x * SCALE, (height - y - high) * SCALE
    return (
        f"<rect x='{left:.1f}' y='{top:.1f}' width='{wide * SCALE:.1f}' "
        f"height='{high * SCALE:.1f}' {style}/>"
    )


def _svg_box(box, height):
    style = f"rx='3' fill='{box.colour}' stroke='{LINE}'"
    if box.colour is None:
        style = f"rx='3' fill='{PALE}' stroke='{PALE_LINE}' stroke-dasharray='2 2'"
    rect = _rect(box.x - box.wide / 2, box.y - box.high / 2, box.wide, box.high, height, style)
    lines = box.text.split("\n") if box.text else []
    texts = []
    for i, line in enumerate(lines):
        y = box.y + 0.29 * ((len(lines) - 1) / 2 - i)
        text = Text(box.x, y, line, used=box.colour is not None, size=box.size)
        texts.append(_svg_text(text, height))
    return rect + "".join(texts)


def _svg_frame(frame, height):
    style = f"fill='none' stroke='{'#777' if frame.used else '#ddd'}'"
    return _rect(frame.x, frame.y, frame.wide, frame.high, height, style)


def _svg_arrow(arrow, height):
    """The line and its head, for an arrow to the right or upwards."""
    to_x, to_y = arrow.to_x * SCALE, (height - arrow.to_y) * SCALE
    start = f"M{arrow.x * SCALE:.1f} {(height - arrow.y) * SCALE:.1f}"
    right = arrow.to_x > arrow.x
    head = "m-4 -3l4 3l-4 3" if right else "m-3 4l3 -4l3 4"
    colour = "#777" if arrow.used else "#ddd"
    return f"<path d='{start}L{to_x:.1f} {to_y:.1f}{head}' fill='none' stroke='{colour}'/>"


def _svg_text(text, height):
    x, y = text.x * SCALE, (height - text.y) * SCALE + 0.35 * 1.35 * text.size
    anchor, colour = ("middle" if text.centred else "start"), ("#222" if text.used else PALE_TEXT)
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{colour}' "
        f"font-size='{1.35 * text.size:.1f}'>{html.escape(text.text)}</text>"
    )


_SVG = {Box: _svg_box, Frame: _svg_frame, Arrow: _svg_arrow, Text: _svg_text}
