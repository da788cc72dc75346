"""What is known of other programs' networks, and what of it differs from the paper, in plain lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from trainer.config import AugmentConfig, NetworkConfig
from trainer.interchange.layers import Described

Known = Literal["bvlc_alexnet", "bvlc_reference_caffenet"]

_ALEXNET = NetworkConfig(
    conv1_pad=0, lrn_k=1.0, lrn_alpha=1e-4 / 5, lrn_over="both", inverted_dropout=True
)  # alpha 1e-4, divided by n = 5
_CAFFENET = replace(_ALEXNET, conv1_order="relu-pool-lrn", conv2_order="relu-pool-lrn")
LIKE: dict[Known, Described] = {
    "bvlc_alexnet": Described(network=_ALEXNET, augment=AugmentConfig(crop_size=227)),
    "bvlc_reference_caffenet": Described(network=_CAFFENET, augment=AugmentConfig(crop_size=227)),
}
"""As BVLC's train_val.prototxt has them, for files that hold weights alone."""

WARPED = (
    "images: Caffe's tools warp each image to 256x256 pixels; here its shorter side becomes 256 and the "
    "centre is kept, so that errors differ a little from the published ones"
)


def differences(network: NetworkConfig, augment: AugmentConfig, side_assumed: bool) -> Iterator[str]:
    """A line for each setting in which a network differs from the paper's."""
    paper = NetworkConfig()
    side, pad = augment.crop_size, network.conv1_pad
    if (side, pad) != (224, 3):
        outputs = (side + pad - 11) // 4 + 1
        assumed = " (assumed: the file has no size)" if side_assumed else ""
        padding = f"{pad} zeros" if pad else "no padding"
        yield f"crops: {side}x{side} pixels{assumed} and {padding}: conv1 has {outputs}x{outputs} outputs"
        if outputs == 54:
            first, second = (27, 13) if network.pool_rounding == "up" else (26, 12)
            yield f"pooling: rounds {network.pool_rounding}, to {first}x{first} and {second}x{second} outputs"
    constants = [(n.lrn_size, n.lrn_k, n.lrn_alpha, n.lrn_beta, n.lrn_over) for n in (network, paper)]
    if constants[0] != constants[1]:
        n, k, alpha, beta, over = constants[0]
        divided = f"{alpha:g} (the file's {alpha * n:g}, divided by n)" if over == "both" else f"{alpha:g}"
        channels = "over the channels of both towers" if over == "both" else "within each tower"
        yield f"normalisation (LRN): n = {n}, k = {k:g}, alpha = {divided}, beta = {beta:g}, {channels}"
    for layer, order in (("conv1", network.conv1_order), ("conv2", network.conv2_order)):
        if order != paper.conv1_order:
            yield f"order: after {layer} come {', '.join(order.split('-'))}"
    if network.dense:
        yield "groups: conv2, conv4 and conv5 read all channels of the layer before (dense)"
    if network.inverted_dropout:
        yield (
            f"dropout: {network.dropout:g}, inverted: training divides by {1 - network.dropout:g} and "
            "evaluation changes nothing"
        )
    if augment.divisor != 1:
        yield f"pixels: divided by {augment.divisor:g} after the mean is subtracted"
