"""Print the versions of everything that the image needs, as they are installed here; for docker/constraints.txt."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = frozenset({"pretrained", "milvus", "postgresql", "object-store"})
HEAD = """\
# What the image is built with, version by version. Made in an environment with the extras of the image by
#   python docker/constraints.py > docker/constraints.txt
"""


def needed(name: str, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """What a distribution needs here, with the extras that it asks for."""
    for text in distribution(name).requires or []:
        requirement = Requirement(text)
        environments = [{"extra": extra} for extra in extras] or [{"extra": ""}]
        if requirement.marker is None or any(requirement.marker.evaluate(one) for one in environments):
            yield requirement.name, frozenset(requirement.extras)


def versions() -> dict[str, str]:
    """Name to version of all that is needed, without local parts such as "+cpu"."""
    found: dict[str, str] = {}
    waiting, seen = [("pacsimile", EXTRAS)], set()
    while waiting:
        name, extras = waiting.pop()
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform
        if (installed.name, extras) in seen:
            continue
        seen.add((installed.name, extras))
        found[canonicalize_name(installed.name)] = installed.version.split("+")[0]
        waiting += needed(name, extras)
    del found["pacsimile"]
    return found


if __name__ == "__main__":
    print(HEAD + "\n".join(f"{name}=={version}" for name, version in sorted(versions().items())))  # noqa: T201
