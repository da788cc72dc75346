def square(
    data: bytes,
    size: tuple[int, int],
    resized: tuple[int, int],
    corner: tuple[int, int],
    side: int,
    plain: bool,
) -> bytes | None: ...
