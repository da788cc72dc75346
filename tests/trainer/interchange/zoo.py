"""ONNX files as the model zoo has them, written by the onnx library."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.weights import narrow_alexnet

PADS = [0, 0, 1, 1]
ZOO = ([0] * 4, [0] * 4, PADS)  # of pool1, pool2 and pool5: 54 -> 26 -> 12 -> 6 pixels
CAFFE = (PADS, PADS, PADS)  # rounding up: 54 -> 27 -> 13 -> 6


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, **attributes)


def graph(order="relu-lrn-pool", pads=ZOO, side=224, opset=9, weights=None, float_data=False, **options):
    """bvlcalexnet's graph: its names, nodes and attributes. Pairs of (module's name, output's name) too."""
    weights = narrow_alexnet() if weights is None else weights
    nodes, names, at = [], {}, "data_0"

    def add(ours, kind, output, *inputs, **attributes):
        nonlocal at
        extra = [f"_{output}_mask"] if kind == "Dropout" else []
        nodes.append(node(kind, [at, *inputs], [output, *extra], **attributes))
        at, names[ours] = output, output

    convolutions = {1: (11, 0, 4), 2: (5, 2, 1), 3: (3, 1, 1), 4: (3, 1, 1), 5: (3, 1, 1)}
    pools = iter(pads)
    for number, (kernel, pad, stride) in convolutions.items():
        layer, group = f"conv{number}", 2 if number in (2, 4, 5) else 1
        geometry = {"kernel_shape": [kernel] * 2, "pads": [pad] * 4, "strides": [stride] * 2, "group": group}
        add(layer, "Conv", f"{layer}_1", f"{layer}_w_0", f"{layer}_b_0", **geometry)
        for operation in {1: order, 2: order, 5: "relu-pool"}.get(number, "relu").split("-"):
            if operation == "relu":
                add(f"relu{number}", "Relu", f"{layer}_2")
            elif operation == "lrn":
                constants = {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}
                add(f"norm{number}", "LRN", f"norm{number}_1", **constants)
            else:
                windows = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": next(pools)}
                add(f"pool{number}", "MaxPool", f"pool{number}_1", **windows, **options)
    shape = numpy_helper.from_array(np.array([1, 576], np.int64), "OC2_DUMMY_1")
    add("reshape", "Reshape", "OC2_DUMMY_0", "OC2_DUMMY_1")
    for number in (6, 7, 8):
        layer = f"fc{number}"
        add(layer, "Gemm", f"{layer}_1", f"{layer}_w_0", f"{layer}_b_0", transB=1)
        if number < 8:
            add(f"relu{number}", "Relu", f"{layer}_2")
            if opset < 12:
                add(f"drop{number}", "Dropout", f"{layer}_3", ratio=0.25)
            else:
                add(f"drop{number}", "Dropout", f"{layer}_3", "ratio")
    add("prob", "Softmax", "prob_1")
    arrays = [shape, numpy_helper.from_array(np.float32(0.25), "ratio")]
    for name, array in weights.items():
        layer, kind = name.split(".")
        own, array = f"{layer}_{kind[0]}_0", np.float32(array)
        if float_data:
            arrays.append(helper.make_tensor(own, TensorProto.FLOAT, array.shape, array.ravel()))
        else:
            arrays.append(numpy_helper.from_array(array, own))
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "AlexNet",
        # Files of old opsets list their weights among the inputs, before or after the image.
        [value("conv1_w_0", 1, [12, 3, 11, 11]), value("data_0", 1, [1, 3, side, side])],
        [value("prob_1", 1, [1, 10])],
        arrays,
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(made, opset_imports=opsets, ir_version=7, producer_name="onnx-caffe2"), names
