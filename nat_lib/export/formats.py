"""A loaded network in the formats of others: torch.export, ONNX, ONNX that stops early.

All of them are made by torch from the module itself; nothing is written by hand.
"""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nat_lib.early import last_answer
from nat_lib.export.subnet import Subnet

IMAGE, LOGITS = "image", "logits"  # names of the input and of the output of the ONNX graphs
EARLY = ["probabilities", "exit"]  # outputs of the one that stops early
OPSET = 18


def onnx_packages():
    """(onnx, onnxruntime), or None where the extra `export` is not installed."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError:
        return None
    return onnx, onnxruntime


@torch.no_grad()
def exported(network: nn.Module, x: torch.Tensor) -> torch.export.ExportedProgram:
    """The network as a program of torch.export, for any number of images like those of x."""
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(network, (x,), dynamic_shapes=({0: batch},))


def pt2_bytes(program: torch.export.ExportedProgram) -> bytes:
    """The archive that `torch.export.load` reads."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Channels-last weights: on a CPU nothing is lost.
        warnings.filterwarnings("ignore", "No complete tensor")
        torch.export.save(program, file)
    return file.getvalue()


def onnx_bytes(program: torch.export.ExportedProgram, card: dict[str, Any]) -> bytes:
    """An ONNX model of a program: input "image" (batch, C, R, R), output "logits" (batch, K)."""
    return _onnx(program, [LOGITS], _told(card))


def early_onnx_bytes(subnet: Subnet) -> bytes:
    """An ONNX model for one image that stops as soon as the exits so far are sure enough: outputs
    "probabilities" (1, K) and "exit", the position that gave them.

    Behind every exit but the last an If returns, or computes the next stage.
    """
    size = subnet.card["input"]["size"]
    image = torch.zeros(1, subnet.card["input"]["channels"], size, size)
    with torch.no_grad():
        program = torch.export.export(Stopping(subnet).eval(), (image,))
    told = _told(subnet.card)
    for key in ("threshold", "policy", "aggregator"):
        told[key] = str(subnet.card["early"][key])
    return _onnx(program, EARLY, told)


class Stopping(nn.Module):
    """`early.answer_early` as one graph: nested `torch.cond`, each with the rest of the network in
    its second branch."""

    def __init__(self, subnet: Subnet):
        super().__init__()
        self.network, self.positions = subnet.network, subnet.positions
        self.early = subnet.card["early"]
        self.register_buffer("votes", torch.tensor(subnet.votes))

    def forward(self, x):
        return self._until(0, self.network.stem(x), None)

    def _until(self, i, h, before):
        """(probabilities, position) of exit i or a later one, from the input of its stage and the
        logits (i, 1, K) of the exits before."""
        position = self.positions[i]
        for stage in self.network.stages[self.positions[i - 1] if i else 0 : position]:
            h = stage(h)
        logits = self.network.exits[str(position)](h)[None]
        if before is not None:
            logits = torch.cat([before, logits])
        answer, sure = last_answer(logits, self.votes, self.early)
        probabilities = answer.softmax(1)

        def leave(h, logits, probabilities):
            return probabilities.clone(), torch.full((1,), position)

        def go_on(h, logits, probabilities):
            return self._until(i + 1, h, logits)

        operands = h, logits, probabilities
        if i == len(self.positions) - 1:
            return leave(*operands)
        return torch.cond((sure >= self.early["threshold"]).all(), leave, go_on, operands)


def session(path: Path) -> Callable[[torch.Tensor], list[np.ndarray]]:
    """images -> list of outputs of an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors, not notes on constants that it folds
    run = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: run.run(None, {IMAGE: x.contiguous().numpy()})


def _told(card):
    """What the metadata of an ONNX model say, as text."""
    return {
        "size": str(card["input"]["size"]),
        "mean": str(card["input"]["mean"]),
        "std": str(card["input"]["std"]),
        "exits": str([e["position"] for e in card["exits"]]),
        "votes": str([e["weight"] for e in card["exits"]]),
    }


def _onnx(program, outputs, told):
    import onnx

    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[IMAGE],
            output_names=outputs,
            opset_version=OPSET,
            verbose=False,
        )
    model = made.model_proto
    _forget_origins(model.graph)
    onnx.helper.set_model_props(model, told)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _forget_origins(graph):
    """Remove what the exporter notes of every node (lines of source, stacks): of a network with
    several exits it takes thirty times the room of the weights."""
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _forget_origins(attribute.g)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on its own passes."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
