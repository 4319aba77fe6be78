"""One table of layers, and what can be made of it: a torch module, an ONNX graph, answers that stop
early.

The table has one row per operation: kind, numbers and the rows it reads, so that skips, dense sums,
parallel branches, squeeze-and-excitation and exits are plain to see.  One short builder makes a
torch module of it, another an ONNX graph, for all networks of the kit.  Nothing here knows
supernets, searches or data sets.
"""

import operator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from nat_lib import files
from nat_lib.errors import Refusal

FORMAT = 1  # of subnet.json
IMAGE, LOGITS = "image", "logits"  # input of the table and of the ONNX graphs; their output
OPSET, IR = 18, 10
SLACK = 0.5  # points of validation top-1 that stopping early may cost


# ---------------------------------------------------------------------------------- the layer table


class Kind(NamedTuple):
    """One kind of row.

    names : of the torch module, function or method that it stands for in a traced network
    build : row -> what computes it from the rows it reads: a module (it has weights) or a function
    op, attributes : ONNX operator; row -> its attributes
    fields : torch module -> numbers of the row
    """

    names: tuple
    build: object
    op: str
    attributes: object = lambda row: {}
    fields: object = lambda module: {}


def _window(row):
    return {
        "kernel_shape": [row["kernel"]] * 2,
        "strides": [row["stride"]] * 2,
        "pads": [row["padding"]] * 4,
    }


def _window_of(m):
    return {"kernel": _side(m.kernel_size), "stride": _side(m.stride), "padding": _side(m.padding)}


def _side(value):
    """A size of windows, the same in both directions."""
    sides = set(value) if isinstance(value, tuple) else {value}
    if len(sides) > 1 or not all(isinstance(side, int) for side in sides):
        raise Refusal(
            f"a window of {value} has no row in the layer table, which knows square ones: keep to these"
        )
    return sides.pop()


KINDS = {
    "conv": Kind(
        ("Conv2d",),
        lambda r: nn.Conv2d(
            r["c_in"],
            r["c_out"],
            r["kernel"],
            r["stride"],
            r["padding"],
            r["dilation"],
            r["groups"],
            r["bias"],
        ),
        "Conv",
        lambda r: {**_window(r), "group": r["groups"], "dilations": [r["dilation"]] * 2},
        lambda m: {
            "c_in": m.in_channels,
            "c_out": m.out_channels,
            **_window_of(m),
            "dilation": _side(m.dilation),
            "groups": m.groups,
            "bias": m.bias is not None,
        },
    ),
    "batch_norm": Kind(
        ("BatchNorm2d",),
        lambda r: nn.BatchNorm2d(r["c_out"], r["eps"], r["momentum"]),
        "BatchNormalization",
        lambda r: {"epsilon": r["eps"]},
        lambda m: {"c_out": m.num_features, "eps": m.eps, "momentum": m.momentum},
    ),
    "linear": Kind(
        ("Linear",),
        lambda r: nn.Linear(r["c_in"], r["c_out"], r["bias"]),
        "Gemm",
        lambda r: {"transB": 1},
        lambda m: {"c_in": m.in_features, "c_out": m.out_features, "bias": m.bias is not None},
    ),
    "max_pool": Kind(
        ("MaxPool2d",),
        lambda r: nn.MaxPool2d(r["kernel"], r["stride"], r["padding"], ceil_mode=r["ceil_mode"]),
        "MaxPool",
        lambda r: {**_window(r), "ceil_mode": int(r["ceil_mode"])},
        lambda m: {**_window_of(m), "ceil_mode": m.ceil_mode},
    ),
    "average_pool": Kind(
        ("AvgPool2d",),
        lambda r: nn.AvgPool2d(r["kernel"], r["stride"], r["padding"]),
        "AveragePool",
        lambda r: {**_window(r), "count_include_pad": 1},
        _window_of,
    ),
    "relu": Kind(("ReLU", "relu"), lambda r: F.relu, "Relu"),
    "h_swish": Kind(("Hardswish",), lambda r: F.hardswish, "HardSwish"),
    "swish": Kind(("SiLU",), lambda r: F.silu, "Sigmoid"),  # and a product: see `_nodes`
    "sigmoid": Kind(("Sigmoid",), lambda r: torch.sigmoid, "Sigmoid"),
    "h_sigmoid": Kind(
        ("Hardsigmoid",),
        lambda r: F.hardsigmoid,
        "HardSigmoid",
        lambda r: {"alpha": 1 / 6, "beta": 0.5},
    ),
    "mean": Kind(
        ("mean", "GlobalAverage", "AdaptiveAvgPool2d"),
        lambda r: lambda x: x.mean((2, 3), keepdim=True),
        "GlobalAveragePool",
    ),
    "flatten": Kind(
        ("Flatten", "flatten"), lambda r: lambda x: x.flatten(1), "Flatten", lambda r: {"axis": 1}
    ),
    "sum": Kind(("add", "iadd"), lambda r: operator.add, "Add"),
    "product": Kind(("mul",), lambda r: operator.mul, "Mul"),
    "concatenate": Kind(
        ("cat",), lambda r: lambda *x: torch.cat(x, 1), "Concat", lambda r: {"axis": 1}
    ),
    "weighted_sum": Kind(
        (), lambda r: lambda *x: sum(w * v for w, v in zip(r["weights"], x, strict=True)), "Sum"
    ),
}
KIND_OF = {name: kind for kind, row in KINDS.items() for name in row.names}
PASSED = ("Dropout", "Identity", "StochasticDepth")  # nothing happens there in evaluation mode
TENSORS = ("weight", "bias", "running_mean", "running_var")  # of a row, in ONNX's order


class _Tracer(fx.Tracer):
    """Every module that has a row, or needs none, is one step."""

    def is_leaf_module(self, module, name):
        return type(module).__name__ in (*KIND_OF, *PASSED) or super().is_leaf_module(module, name)


def layer_table(network, votes, positions, channels, size):
    """(rows, exits) of a plain network: the table that `Subnet` is built from.

    network   : images (B, channels, size, size) -> logits, or a list of them
    votes     : weights of the exits' logits in the answer;  positions : stages that the exits read,
                for the record
    rows      : dicts in the order of computation.  name (a module's is its own), kind, inputs
                (names), the numbers of the kind, shape of the output for one image, params, macs
    exits     : [{"position", "row", "weight"}], shallow to deep.  Several end in a row of kind
                "weighted_sum"
    """
    graph = _Tracer().trace(network)
    modules, names, rows = dict(network.named_modules()), {}, []
    for node in graph.nodes:
        if node.op == "placeholder":
            names[node] = IMAGE
        elif node.op == "output":
            outputs = list(
                fx.node.map_arg(node.args[0], lambda n: names[n])
                if isinstance(node.args[0], list | tuple)
                else [names[node.args[0]]]
            )
        else:
            module = modules.get(node.target) if node.op == "call_module" else None
            what = (
                type(module).__name__
                if module is not None
                else getattr(node.target, "__name__", node.target)
            )
            if what in PASSED:
                names[node] = names[node.args[0]]
                continue
            if what not in KIND_OF:
                raise Refusal(
                    f"{what} of this network has no row in the layer table: add its kind to KINDS"
                )
            kind = KIND_OF[what]
            scope = node.target if module is not None else f"{_scope(node)}.{kind}"
            # That a function was called as its kind computes it (axes, numbers) is left to the
            # comparison of logits.
            names[node] = _new(scope, rows)
            rows.append(
                {
                    "name": names[node],
                    "kind": kind,
                    "inputs": [names[n] for n in node.all_input_nodes],
                    **KINDS[kind].fields(module),
                }
            )
    exits = [
        {"position": p, "row": row, "weight": float(w)}
        for p, row, w in zip(positions, outputs, votes, strict=True)
    ]
    if len(exits) > 1:
        weights = [e["weight"] for e in exits]
        rows.append({"name": LOGITS, "kind": "weighted_sum", "inputs": outputs, "weights": weights})
    return _costed(rows, exits, channels, size), exits


def _scope(node):
    """Name of the module whose forward calls a function."""
    return [*node.meta["nn_module_stack"]][-1]


def _new(name, rows):
    """`name`, with a number where a row has it already: an activation may serve twice."""
    taken = {row["name"] for row in rows}
    return next(
        n for n in (name, *(f"{name}_{i}" for i in range(2, len(rows) + 3))) if n not in taken
    )


@torch.no_grad()
def _costed(rows, exits, channels, size):
    """The rows with shape, params and macs, of one image."""
    try:
        subnet = Subnet({"layers": rows, "exits": exits}).eval()
        shapes = {
            name: list(value.shape[1:])
            for name, value in subnet.values(torch.zeros(1, channels, size, size))
        }
    except (TypeError, RuntimeError) as error:
        raise Refusal(
            f"the layer table does not compute this network ({str(error).splitlines()[0]}): correct the "
            "kinds of its operations in KINDS"
        ) from None
    costed = []
    for row in rows:
        step, shape = subnet.steps[row["name"]], shapes[row["name"]]
        params = sum(p.numel() for p in step.parameters()) if isinstance(step, nn.Module) else 0
        macs = (
            step.weight[0].numel() * int(np.prod(shape)) if row["kind"] in ("conv", "linear") else 0
        )
        costed.append(row | {"shape": shape, "params": params, "macs": macs})
    return costed


class Subnet(nn.Module):
    """A network built from its layer table: images (B, C, R, R), normalised -> logits (B, K).

    card : what subnet.json holds.  The weights have the names they had in the network that was
           exported
    """

    def __init__(self, card):
        super().__init__()
        self.card, self.steps, self.last_use = card, {}, {}
        for row in card["layers"]:
            self.steps[row["name"]] = step = KINDS[row["kind"]].build(row)
            self.last_use |= dict.fromkeys(row["inputs"], row["name"])
            if isinstance(step, nn.Module):
                *path, name = row["name"].split(".")
                parent = self
                for part in path:
                    if part not in parent._modules:
                        parent.add_module(part, nn.Module())
                    parent = parent._modules[part]
                parent.add_module(name, step)

    def values(self, x):
        """Compute row by row: iterator of (name, value).  Whoever stops asking stops the
        network."""
        kept = {IMAGE: x}
        for row in self.card["layers"]:
            name = row["name"]
            kept[name] = self.steps[name](*(kept[i] for i in row["inputs"]))
            yield name, kept[name]
            for used in set(row["inputs"]):
                if self.last_use[used] == name:
                    del kept[used]

    def forward(self, x):
        for _, value in self.values(x):
            logits = value
        return logits

    def exit_logits(self, x):
        """Logits of every exit, shallow to deep: list of (B, K)."""
        rows = [e["row"] for e in self.card["exits"]]
        return [value for name, value in self.values(x) if name in rows]


def load_subnet(folder):
    """The network of an export as an ordinary module in evaluation mode, on the CPU; `.card` is its
    subnet.json."""
    card = read_card(folder)
    try:
        subnet = Subnet(card)
        subnet.load_state_dict(files.load_weights(Path(folder) / "subnet.safetensors"))
    except (KeyError, TypeError, RuntimeError):
        raise Refusal(
            f"table and weights in {folder} do not fit together: export the network again"
        ) from None
    return subnet.to(memory_format=torch.channels_last).eval()


def read_card(folder):
    """What subnet.json of an export says, a dict."""
    path = Path(folder) / "subnet.json"
    if not path.exists():
        raise Refusal(
            f"{folder} is no export, it has no subnet.json: give a folder that nat_lib.export wrote"
        )
    card = files.read_json(path)
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise Refusal(
            f"{path} is damaged or of another version of the kit: export the network again"
        )
    return card


# --------------------------------------------------------------------------------------------- ONNX


def onnx_packages():
    """(onnx, onnxruntime), or None where the extra `export` is not installed."""
    try:
        import onnx
        import onnxruntime
    except ImportError:
        return None
    return onnx, onnxruntime


def onnx_model(card, state, early=False):
    """The table as an ONNX model: input "image" (batch, C, R, R), output "logits" (batch, K).

    state : the weights by name
    early : one image; outputs "probabilities" (1, K) and "exit", the position that gave them.
            Behind every exit but the last an If returns, or computes the next stage
    """
    import onnx

    helper, numpy_helper, spec = onnx.helper, onnx.numpy_helper, card["input"]
    constants = {k: v.detach().numpy() for k, v in state.items() if k.rpartition(".")[2] in TENSORS}
    rows, last = card["layers"], card["layers"][-1]["name"]
    image = helper.make_tensor_value_info(
        IMAGE,
        onnx.TensorProto.FLOAT,
        [1 if early else "batch", spec["channels"], spec["size"], spec["size"]],
    )
    if early:
        constants["threshold"] = np.array(card["early"]["threshold"], np.float32)
        nodes, outputs = _until(
            card, 0, [row for row in rows if row["name"] != LOGITS], constants, onnx
        )
    else:
        nodes = [node for row in rows for node in _nodes(row, constants, helper)]
        if last != LOGITS:
            nodes.append(helper.make_node("Identity", [last], [LOGITS]))
        outputs = [
            helper.make_tensor_value_info(
                LOGITS, onnx.TensorProto.FLOAT, ["batch", spec["n_classes"]]
            )
        ]
    graph = helper.make_graph(
        nodes,
        "subnet",
        [image],
        outputs,
        [
            numpy_helper.from_array(np.ascontiguousarray(value), key)
            for key, value in constants.items()
        ],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="nat-kit",
    )
    helper.set_model_props(
        model,
        {
            key: text
            for key, text in {
                "size": str(spec["size"]),
                "mean": str(spec["mean"]),
                "std": str(spec["std"]),
                "exits": str([e["position"] for e in card["exits"]]),
                "votes": str([e["weight"] for e in card["exits"]]),
                "threshold": repr(card["early"]["threshold"]) if early else None,
            }.items()
            if text
        },
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _nodes(row, constants, helper):
    """ONNX nodes of one row; what they need besides joins the constants."""
    name, inputs, kind = row["name"], list(row["inputs"]), KINDS[row["kind"]]
    if (
        row["kind"] == "swish"
    ):  # x * sigmoid(x): an operator of its own only in newer versions of ONNX
        return [
            helper.make_node("Sigmoid", inputs, [f"{name}/gate"]),
            helper.make_node("Mul", [*inputs, f"{name}/gate"], [name]),
        ]
    if row["kind"] == "weighted_sum":
        scaled = []
        for i, (value, weight) in enumerate(zip(inputs, row["weights"], strict=True)):
            constants[f"{name}/weight_{i}"] = np.array(weight, np.float32)
            scaled.append(helper.make_node("Mul", [value, f"{name}/weight_{i}"], [f"{name}/{i}"]))
        return [*scaled, helper.make_node("Sum", [n.output[0] for n in scaled], [name])]
    tensors = [f"{name}.{t}" for t in TENSORS if f"{name}.{t}" in constants]
    return [helper.make_node(kind.op, inputs + tensors, [name], name, **kind.attributes(row))]


def _until(card, i, rows, constants, onnx):
    """(nodes, outputs) of the graph that computes exit i from the rows left, and answers or goes
    on."""
    helper, exits = onnx.helper, card["exits"]
    at = [row["name"] for row in rows].index(exits[i]["row"]) + 1
    total = sum(e["weight"] for e in exits[: i + 1])
    vote = {
        "name": f"vote_{i}",
        "kind": "weighted_sum",
        "inputs": [e["row"] for e in exits[: i + 1]],
        "weights": [e["weight"] / total for e in exits[: i + 1]],
    }
    constants[f"position_{i}"] = np.array([exits[i]["position"]], np.int64)
    nodes = [node for row in (*rows[:at], vote) for node in _nodes(row, constants, helper)]
    nodes.append(helper.make_node("Softmax", [f"vote_{i}"], [f"softmax_{i}"], axis=1))

    def outputs(names):
        return [
            helper.make_tensor_value_info(
                names[0], onnx.TensorProto.FLOAT, [1, card["input"]["n_classes"]]
            ),
            helper.make_tensor_value_info(names[1], onnx.TensorProto.INT64, [1]),
        ]

    def answer(names):
        return [
            helper.make_node("Identity", [f"softmax_{i}"], [names[0]]),
            helper.make_node("Identity", [f"position_{i}"], [names[1]]),
        ]

    mine = ("probabilities", "exit") if i == 0 else (f"probabilities_{i}", f"exit_{i}")
    if i == len(exits) - 1:
        return nodes + answer(mine), outputs(mine)
    stop = f"probabilities_stop_{i}", f"exit_stop_{i}"
    more, goes_on = _until(card, i + 1, rows[at:], constants, onnx)
    nodes += [
        helper.make_node("ReduceMax", [f"softmax_{i}"], [f"sure_{i}"], keepdims=0),
        helper.make_node("GreaterOrEqual", [f"sure_{i}", "threshold"], [f"leave_{i}"]),
        helper.make_node(
            "If",
            [f"leave_{i}"],
            list(mine),
            then_branch=helper.make_graph(answer(stop), f"leave at exit {i}", [], outputs(stop)),
            else_branch=helper.make_graph(more, f"go on behind exit {i}", [], goes_on),
        ),
    ]
    return nodes, outputs(mine)
