"""What each named module of an imported network makes."""

import torch


def outputs(network, images_BSS3):
    """Every named module's output for the centre crop."""
    module, found = network.module(), {}
    for name, part in module.named_children():
        part.register_forward_hook(lambda _, __, y, name=name: found.__setitem__(name, y))
    first = (network.image_size - network.crop_size) // 2
    with torch.no_grad():
        module(network.inputs(images_BSS3, (first, first, False)))
    return found


def require_equal(found, expected, tolerance=1e-4):
    """Each expected output is found, to this share of its largest value."""
    for name, y in expected.items():
        error = (found[name].double() - torch.as_tensor(y)).abs().max() / torch.as_tensor(y).abs().max()
        assert found[name].shape == y.shape, name
        assert error < tolerance, (name, float(error))
