"""Caffe's files, written by Google's protobuf library by the numbers of caffe.proto; Caffe's arithmetic.

BVLC/caffe, src/caffe/proto/caffe.proto and models/bvlc_alexnet/train_val.prototxt.
"""

import numpy as np
import torch
import torch.nn.functional as F
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
PARAMETERS = {  # of a layer: V1's number, the later one
    "ConvolutionParameter": ("convolution_param", 10, 106),
    "DataParameter": ("data_param", 11, 107),
    "DropoutParameter": ("dropout_param", 12, 108),
    "InnerProductParameter": ("inner_product_param", 17, 117),
    "LRNParameter": ("lrn_param", 18, 118),
    "PoolingParameter": ("pooling_param", 19, 121),
    "ReLUParameter": ("relu_param", 30, 123),
    "TransformationParameter": ("transform_param", 36, 100),
}
# name: number, type; "*" is repeated, "[" repeated and packed.
SCHEMA = {
    "BlobShape": {"dim": "1 int64["},
    "BlobProto": {
        **{"shape": "7 .BlobShape", "data": "5 float[", "diff": "6 float[", "double_data": "8 double["},
        **{"num": "1 int32", "channels": "2 int32", "height": "3 int32", "width": "4 int32"},
    },
    "ConvolutionParameter": {
        **{"num_output": "1 uint32", "bias_term": "2 bool", "pad": "3 uint32*", "kernel_size": "4 uint32*"},
        **{"group": "5 uint32", "stride": "6 uint32*", "pad_h": "9 uint32", "pad_w": "10 uint32"},
        **{"stride_h": "13 uint32", "stride_w": "14 uint32", "dilation": "18 uint32*"},
    },
    "DataParameter": {"scale": "2 float", "mean_file": "3 string", "crop_size": "5 uint32"},
    "DropoutParameter": {"dropout_ratio": "1 float"},
    "InnerProductParameter": {"num_output": "1 uint32", "transpose": "6 bool"},
    "InputParameter": {"shape": "1 .BlobShape*"},
    "LRNParameter": {
        **{"local_size": "1 uint32", "alpha": "2 float", "beta": "3 float", "norm_region": "4 int32"},
        "k": "5 float",
    },
    "PoolingParameter": {
        **{"pool": "1 int32", "kernel_size": "2 uint32", "stride": "3 uint32", "pad": "4 uint32"},
        **{"kernel_h": "5 uint32", "kernel_w": "6 uint32"},
    },
    "ReLUParameter": {"negative_slope": "1 float"},
    "TransformationParameter": {
        **{"scale": "1 float", "mirror": "2 bool", "crop_size": "3 uint32", "mean_file": "4 string"},
        "mean_value": "5 float*",
    },
    "V0LayerParameter": {"name": "1 string", "type": "2 string", "num_output": "3 uint32"},
    "V1LayerParameter": {
        **{"layer": "1 .V0LayerParameter", "bottom": "2 string*", "top": "3 string*", "name": "4 string"},
        **{"type": "5 int32", "blobs": "6 .BlobProto*", "blobs_lr": "7 float*"},
        **{name: f"{v1} .{kind}" for kind, (name, v1, _) in PARAMETERS.items()},
    },
    "LayerParameter": {
        **{"name": "1 string", "type": "2 string", "bottom": "3 string*", "top": "4 string*"},
        **{"blobs": "7 .BlobProto*", "phase": "10 int32", "input_param": "143 .InputParameter"},
        **{name: f"{new} .{kind}" for kind, (name, _, new) in PARAMETERS.items()},
    },
    "NetParameter": {
        **{
            "name": "1 string",
            "layers": "2 .V1LayerParameter*",
            "input": "3 string*",
            "input_dim": "4 int32*",
        },
        "layer": "100 .LayerParameter*",
    },
}
V1_TYPES = {
    **{"Convolution": 4, "Data": 5, "Dropout": 6, "InnerProduct": 14, "LRN": 15, "Pooling": 17, "ReLU": 18},
    **{"Softmax": 20, "SoftmaxWithLoss": 21, "Split": 22},
}


def _messages():
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", syntax="proto2")
    types = descriptor_pb2.FieldDescriptorProto
    for message, fields in SCHEMA.items():
        made = file.message_type.add(name=message)
        for name, text in fields.items():
            number, kind = text.rstrip("*[").split()
            label = types.LABEL_REPEATED if text[-1] in "*[" else types.LABEL_OPTIONAL
            field = made.field.add(name=name, number=int(number), label=label)
            if kind[0] == ".":
                field.type, field.type_name = types.TYPE_MESSAGE, kind
            else:
                field.type = getattr(types, f"TYPE_{kind.upper()}")
            field.options.packed = text[-1] == "["
            if text[-1] != "[":
                field.ClearField("options")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in SCHEMA}


MESSAGES = _messages()


def blob(array, old_shape=False):
    """A BlobProto; old: four numbers of the shape, with ones before."""
    made = MESSAGES["BlobProto"](data=array.astype(np.float32).ravel())
    if old_shape:
        made.num, made.channels, made.height, made.width = (1,) * (4 - array.ndim) + array.shape
    else:
        made.shape.dim.extend(array.shape)
    return made


def train_val(order="relu-lrn-pool", groups=2, scale=None, mean=()):
    """The layers of train_val.prototxt: (type, name, bottom, top, parameters)."""
    transform = {"crop_size": 227, "mirror": True, "mean_value": list(mean)}
    transform |= {"scale": scale} if scale else {"mean_file": "imagenet_mean.binaryproto"}
    yield "Data", "data", [], ["data", "label"], {"transform_param": transform}
    at = "data"
    sizes = {"conv1": (11, 0, 4, 1), "conv2": (5, 2, 1, groups), "conv3": (3, 1, 1, 1)}
    sizes |= dict.fromkeys(("conv4", "conv5"), (3, 1, 1, groups))
    for number, (layer, (kernel, pad, stride, group)) in enumerate(sizes.items(), 1):
        convolution = {
            "kernel_size": [kernel],
            "pad": [pad] if pad else [],
            "stride": [stride],
            "group": group,
        }
        yield "Convolution", layer, [at], [layer], {"convolution_param": convolution}
        at = layer
        for operation in {1: order, 2: order, 5: "relu-pool"}.get(number, "relu").split("-"):
            if operation == "relu":
                yield "ReLU", f"relu{number}", [at], [at], {}  # in place
            elif operation == "pool":
                pooling = {"kernel_size": 3, "stride": 2}
                yield "Pooling", f"pool{number}", [at], [f"pool{number}"], {"pooling_param": pooling}
                at = f"pool{number}"
            else:
                lrn = {"local_size": 5, "alpha": 1e-4, "beta": 0.75}
                yield "LRN", f"norm{number}", [at], [f"norm{number}"], {"lrn_param": lrn}
                at = f"norm{number}"
    for number in (6, 7):
        yield "InnerProduct", f"fc{number}", [at], [f"fc{number}"], {}
        at = f"fc{number}"
        yield "ReLU", f"relu{number}", [at], [at], {}
        yield "Dropout", f"drop{number}", [at], [at], {"dropout_param": {"dropout_ratio": 0.5}}
    yield "InnerProduct", "fc8", [at], ["fc8"], {}
    yield "Split", "fc8_fc8_0_split", ["fc8"], ["fc8_0", "fc8_1"], {}
    yield "SoftmaxWithLoss", "loss", ["fc8_0", "label"], ["loss"], {}


def net(weights, layers, v1=False):
    """A NetParameter as Caffe saves it: layers with their weights."""
    made = MESSAGES["NetParameter"](name="AlexNet")
    for kind, name, bottom, top, parameters in layers:
        if v1:
            layer = made.layers.add(name=name, type=V1_TYPES[kind], bottom=bottom, top=top, **parameters)
        else:
            layer = made.layer.add(name=name, type=kind, bottom=bottom, top=top, phase=0, **parameters)
        if f"{name}.weight" in weights:
            layer.blobs.append(blob(weights[f"{name}.weight"], v1))
            layer.blobs.append(blob(weights[f"{name}.bias"], v1))
    return made


def inputs(images_BSS3, mean_3SS, scale=1.0, side=227):
    """data_transformer.cpp in its test phase: a BGR image minus the mean, times scale; the central crop."""
    x = torch.from_numpy(images_BSS3[..., ::-1].copy()).permute(0, 3, 1, 2).double()
    first = (256 - side) // 2
    x = (x - torch.as_tensor(mean_3SS.copy()).double()) * scale
    return x[:, :, first : first + side, first : first + side]


def outputs(weights, x_BCHW, order="relu-lrn-pool", groups=2, round_up=(True, True, True)):
    """Every layer's output in evaluation, float64. Dropout does nothing then.

    LRN sums over the channels of the whole layer with k = 1 and alpha / n, as torch's does.
    """
    w = {name: torch.from_numpy(np.asarray(array)).double() for name, array in weights.items()}
    found, x = {}, x_BCHW
    operations = {
        "relu": F.relu,
        "norm": lambda x: F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1),
        "drop": lambda x: x,
    }
    for number, layer in enumerate(LAYERS, 1):
        weight, bias = w[f"{layer}.weight"], w[f"{layer}.bias"]
        if number <= 5:
            group = groups if number in (2, 4, 5) else 1
            x = F.conv2d(x, weight, bias, 4 if number == 1 else 1, {1: 0, 2: 2}.get(number, 1), groups=group)
        else:
            x = F.linear(x.flatten(1), weight, bias)
        found[layer] = x
        after = {1: order, 2: order, 5: "relu-pool", 6: "relu-drop", 7: "relu-drop", 8: ""}.get(
            number, "relu"
        )
        for operation in filter(None, after.replace("lrn", "norm").split("-")):
            if operation == "pool":
                x = F.max_pool2d(x, 3, 2, ceil_mode=round_up[(1, 2, 5).index(number)])
            else:
                x = operations[operation](x)
            found[f"{operation}{number}"] = x
    return found
