"""The limit of open files of this process."""

try:
    import resource
except ImportError:  # a system without such limits
    resource = None  # type: ignore[assignment]


def lacking_open_files(needed: int) -> str:
    """Raise the limit to `needed` where it is lower; a clause where the system does not let it, else ""."""
    if resource is None:
        return ""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return ""
    if hard != resource.RLIM_INFINITY and hard < needed:
        return f"{needed} open files, and this process may have {hard}: allow more (ulimit -n {needed})"
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return ""
