"""`augment.cut` in torch's operations, for a GPU: only bytes travel to it, and where each picture is cut.

B batch, S side of the stored picture, H and W of the crop.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from trainer.config import AugmentConfig
from trainer.data.augmentation import CROP, Views, input_scale


def cut(
    images_BSS3: Tensor, mean_SS3: Tensor, views: Views, settings: AugmentConfig, training: bool
) -> Tensor:
    """Pictures uint8 [B, S, S, 3] -> network input float32 [B, 3, 224, 224] in channels_last.

    The mean image, float32 [S, S, 3], is on the pictures' device already. Raises ValueError for arrays that
    do not belong together: on a GPU a wrong index ends the process, and a negative one reads other pixels.
    """
    device, side = images_BSS3.device, len(mean_SS3)
    B, shapes = len(views.top_B), (list(images_BSS3.shape), list(mean_SS3.shape))
    if shapes != ([B, side, side, 3], [side, side, 3]) or images_BSS3.dtype != torch.uint8:
        raise ValueError(
            f"images are {images_BSS3.dtype} {shapes[0]} for {B} views and a mean image {shapes[1]}"
        )
    views.check(side)
    top_B, left_B, flip_B, shift_B3, angle_B = (
        torch.from_numpy(getattr(views, f.name)).to(device, non_blocking=True) for f in fields(views)
    )
    along = torch.arange(CROP, device=device)
    across_BW = torch.where(flip_B[:, None], CROP - 1 - along, along)
    turned = bool(views.angle_B.any())
    middle = slice((side - CROP) // 2, (side + CROP) // 2)
    centered = settings.mean_window == "center"

    def pixels(rows: Tensor, columns: Tensor) -> Tensor:
        """Pixels at [B, H or 1, W or 1] rows and columns, less their mean unless that is the centre's."""
        of_picture = torch.arange(len(top_B), device=device)[:, None, None]
        found = images_BSS3[of_picture, rows, columns]
        return found.float() if centered else found - mean_SS3[rows, columns]

    if not turned:
        x = pixels((top_B[:, None] + along)[:, :, None], (left_B[:, None] + across_BW)[:, None, :])
    else:
        half, last = CROP / 2, side - 1
        across, down = (across_BW + 0.5 - half)[:, None, :], (along + 0.5 - half)[None, :, None]
        turn = angle_B.deg2rad()[:, None, None]
        cos, sin = turn.cos().double(), turn.sin().double()
        u = (left_B[:, None, None] + half + cos * across - sin * down - 0.5).clamp(0, last)
        v = (top_B[:, None, None] + half + sin * across + cos * down - 0.5).clamp(0, last)
        x0, y0 = u.long(), v.long()
        x1, y1 = (x0 + 1).clamp(max=last), (y0 + 1).clamp(max=last)
        x = torch.zeros(*u.shape, 3, device=device)
        for row, row_share in ((y0, y0 + 1 - v), (y1, v - y0)):
            for column, share in ((x0, x0 + 1 - u), (x1, u - x0)):
                x += (row_share * share).float()[..., None] * pixels(row, column)
    if centered:
        x -= mean_SS3[middle, middle]
    x = x.add_(shift_B3[:, None, None]).mul_(float(input_scale(settings, training)))
    return x.permute(0, 3, 1, 2)
